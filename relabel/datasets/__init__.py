"""Datasets: label spaces, the in-memory dataset, one module per on-disk format, and the catalogue of
names in relabel.toml.

In: native files on disk. Out: `DetectionDataset`, and files again.
"""
