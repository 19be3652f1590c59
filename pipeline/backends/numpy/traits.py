"""What NumPy can do here, known without importing it."""

from __future__ import annotations

LOOPS = ("manual",)
DTYPES = ("float32", "float64", "longdouble")
EXECUTIONS = ("eager",)
INITS = ("shared",)
XLA = False
ONCE = ()
PACKAGES = ("numpy",)
FLAGS = ("OPENBLAS_CORETYPE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
FLAVOR = ""
NATIVE = ()
INEXACT: dict[str, str] = {}
COARSE: dict[str, str] = {}
