"""Catalogue: the datasets that ``relabel.toml`` and ``--data`` name.

In: a configuration file. Out: datasets read on demand, seeded samples and held-out stretches of
them, settings tables.
"""
