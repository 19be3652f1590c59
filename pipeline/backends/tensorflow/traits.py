"""What TensorFlow can do here, known without importing it."""

from __future__ import annotations

LOOPS = ("manual", "native", "fit")
DTYPES = ("float32", "float64")
EXECUTIONS = ("eager", "compiled")
INITS = ("shared", "framework")
XLA = True
ONCE = ("threads", "deterministic")
PACKAGES = ("tensorflow", "keras")
FLAGS = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
    "ONEDNN_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
)
FLAVOR = "tensorflow"
NATIVE = ("gd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw")
INEXACT = {
    "momentum+schedule": "Keras keeps the rate inside the velocity, v = mu v - lr g",
    "nesterov+schedule": "Keras keeps the rate inside the velocity, v = mu v - lr g",
    "rmsprop": "Keras has epsilon inside the root, g / sqrt(v + epsilon)",
    "adagrad": "Keras has epsilon inside the root, g / sqrt(a + epsilon)",
    "adam": "Keras has epsilon beside the uncorrected root, sqrt(v) + epsilon",
    "adamw": "Keras has epsilon beside the uncorrected root, sqrt(v) + epsilon",
    "momentum+l2": "Keras's weight_decay is decoupled, also that of SGD",
    "nesterov+l2": "Keras's weight_decay is decoupled, also that of SGD",
    "rmsprop+l2": "Keras's weight_decay is decoupled, also that of RMSprop",
    "adagrad+l2": "Keras's weight_decay is decoupled, also that of Adagrad",
    "adadelta+l2": "Keras's weight_decay is decoupled, also that of Adadelta",
    "adam+l2": "Keras's weight_decay is decoupled, also that of Adam",
}
COARSE: dict[str, str] = {}
