"""Pairs: one model written twice, and where each of its parameters lives on either side."""
