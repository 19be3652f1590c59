"""A map between the parameters of two models that are not ours: proposed, then proved by values."""
