"""Labels: an MLP learns from the regions that show their image's own label, then labels all.

In: region features and their scores. Out: class probabilities per region and labels per image.
"""
