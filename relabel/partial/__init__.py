"""Partial: fills in the unknown labels of image sets where each category is known or not.

In: labels of images (present, absent, unknown) and pictures. On the way: networks that learn from
what is known, and transfer within an image and across images. Out: a score for every unknown.
"""
