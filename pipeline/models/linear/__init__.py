"""The pair ``linear``."""
