"""The pair ``dynamic``."""
