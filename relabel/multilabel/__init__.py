"""ImageNet-style images to multi-labels: every object of an image gets its label.

In: an image folder with one label per image. On the way: regions by MaskCut, their scores under
label maps, the region classifier trained on the regions that show the image's own label.
Out: several labels with probabilities per image (TSV, Parquet, FiftyOne).
"""
