"""The pair ``attention``."""
