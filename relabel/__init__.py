"""relabel: rewrite the annotations of detection datasets into another dataset's label space.

The way of the data goes one direction only:

    native files -> datasets -> detectors -> crosslabel -> lat -> datasets -> COCO / FiftyOne

with `training` and `workspace` beside it and `evaluation` and `reports` at its end.
"""

__version__ = "0.1.0"
