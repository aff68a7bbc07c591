"""Multi-label evaluation: classes per image instead of boxes.

In: the classes that are in each image (ReaL, ImageNetV2, a detection set, a TSV) and scores over
the classes. Out: top-1, example-based mAP with buckets by the number of labels, class-wise mAP.
"""
