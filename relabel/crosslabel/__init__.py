"""Cross-labelling: every specialist labels every other dataset.

In: trained detectors and datasets. Out: pseudo-labels with full score vectors, in Parquet shards.
"""
