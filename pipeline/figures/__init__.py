"""Pictures of runs, pairs and sweeps; the only importer of matplotlib.

Figures are made without ``pyplot``: nothing global is set, no window opens, and what is not kept
is freed.
"""
