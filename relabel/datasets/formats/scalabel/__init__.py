"""Scalabel frames and the two datasets that use them: BDD100K and SHIFT."""
