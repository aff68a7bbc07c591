"""Datasets: label spaces, the in-memory dataset, a module per on-disk format, the catalogue of
names in relabel.toml.

In: native files on disk. Out: `DetectionDataset`, and files again.
"""
