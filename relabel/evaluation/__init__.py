"""Evaluation: detection AP and the quality of transferred labels.

In: truth and predictions as COCO files. Out: numbers.
"""
