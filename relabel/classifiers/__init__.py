"""Classifiers: image classifiers trained on soft multi-labels, and their scores.

In: an image folder or a detection dataset, and labels per image. Out: a transformers checkpoint
and scores as Parquet.
"""
