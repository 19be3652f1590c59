"""The pair ``rnn``."""
