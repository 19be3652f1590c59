"""The pair ``polynomial``."""
