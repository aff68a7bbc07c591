"""Regions: MaskCut's object masks of an image, with their pooled features.

In: images and a frozen backbone. Out: masks as run lengths and a feature vector per region.
"""
