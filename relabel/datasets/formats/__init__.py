"""Formats: a module per on-disk format, a folder where one format has several layouts.

In: native files. Out: a `DetectionDataset`, and back where a format can be written. The table of
formats is in `registry`.
"""
