"""Completed labels as files: Parquet, CSV, JSON, TSV, a FiftyOne dataset, and the report.

Comes in: partial labels and a model's confidences and sources; goes out: the result folder, written
in parts, so that memory does not grow with the number of images.
"""
