"""Pairs that are not ours: two models of a pair file or by import path, judged as they are."""
