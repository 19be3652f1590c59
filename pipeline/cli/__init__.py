"""The command line: Hydra's config to typed values, stages, exit codes; no science.

Nothing heavy is imported here: ``--help`` and a wrong config answer at once.
"""
