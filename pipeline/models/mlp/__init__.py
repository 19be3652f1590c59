"""The pair ``mlp``."""
