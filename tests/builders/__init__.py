"""Datasets, models and results small enough for tests, each built in one place."""
