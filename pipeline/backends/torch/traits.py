"""What PyTorch can do here, known without importing it."""

from __future__ import annotations

LOOPS = ("manual", "native")
DTYPES = ("float32", "float64")
EXECUTIONS = ("eager", "compiled")
INITS = ("shared", "framework")
XLA = False
ONCE = ()
PACKAGES = ("torch",)
FLAGS = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "OPENBLAS_CORETYPE",
    "NVIDIA_TF32_OVERRIDE",
)
FLAVOR = "pytorch"
NATIVE = ("gd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw")
INEXACT = {
    "momentum+decoupled": "torch.optim.SGD adds its weight_decay to the gradient (l2)",
    "nesterov+decoupled": "torch.optim.SGD adds its weight_decay to the gradient (l2)",
    "rmsprop+decoupled": "torch.optim.RMSprop adds its weight_decay to the gradient (l2)",
    "adagrad+decoupled": "torch.optim.Adagrad adds its weight_decay to the gradient (l2)",
    "adadelta+decoupled": "torch.optim.Adadelta adds its weight_decay to the gradient (l2)",
    "clip_norm": "clip_grad_norm_ divides by the norm + 1e-6",
}
COARSE = {
    "native+bce": "BCEWithLogitsLoss takes the logarithm of a rounded 1 + exp(-|z|)",
}
