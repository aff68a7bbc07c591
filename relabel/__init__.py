"""relabel: rewrite the annotations of detection datasets into another dataset's label space.

The way of the data goes one direction only:

    native files -> datasets -> detectors -> crosslabel -> lat -> align -> COCO / FiftyOne
    image folders -> multilabel -> classifiers

with `training` and `workspace` beside it, `evaluation` and `studies` at its end. `CONTRIBUTING.md`
has the rooms, `pyproject.toml` the contracts of who may import whom.
"""

__version__ = "0.1.0"
