"""Evaluation: measures, nothing else: AP, error types, the quality of transferred labels.

In: truth and predictions as COCO files. Out: numbers.
"""
