"""Downstream comparison: does a detector get better from relabelled sources, and by which way?

In: a target with a test split, sources, and arms (ways of using the sources). Out: test AP per
arm and seed, with table, JSON and plots.
"""
