"""The pair ``softmax``."""
