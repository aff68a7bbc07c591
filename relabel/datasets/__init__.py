"""Datasets: the in-memory dataset, label spaces, name maps, fingerprints; formats and pixels.

In: native files on disk. Out: `DetectionDataset`, and files again.
"""
