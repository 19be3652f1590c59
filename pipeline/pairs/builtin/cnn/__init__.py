"""The pair ``cnn``."""
