"""Comparing records: no framework, no training."""
