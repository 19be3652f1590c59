"""Twingrad: the same model trained in PyTorch and in TensorFlow, compared step by step."""

__version__ = "0.1.0"
