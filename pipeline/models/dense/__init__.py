"""The pair ``dense``."""
