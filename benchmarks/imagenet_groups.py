"""Multi-labels of ImageNet's photos by groups of classes, as partial labels.

    python benchmarks/imagenet_groups.py labels/result/labels.tsv groups.csv

With one photo per class, as in a set of a thousand photos, no class can be learned; groups of
classes can. A group is present where one of its classes is (0.5 or more in the TSV of `relabel
imagenet-multilabel`, or the photo's own class), absent where all of its classes are, and unknown
where one of them is listed below 0.5: the labels are known as far as the multi-labels are sure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.partial.files import read_partial, write_partial
from relabel.datasets.partial.opening import in_space
from relabel.errors import RelabelError

# By the order of ImageNet's classes: first and last of each stretch.
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "fish": ((0, 6), (389, 397)),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "amphibian": ((25, 32),),
    "reptile": ((33, 68),),
    "arachnid": ((69, 79),),
    "sea animal": ((107, 126), (147, 150), (327, 329)),
    "dog": ((151, 268),),
    "wild dog": ((269, 280),),
    "cat": ((281, 293),),
    "bear": ((294, 297), (388, 388)),
    "insect": ((300, 326),),
    "small mammal": ((102, 106), (298, 299), (330, 338), (356, 364)),
    "hoofed animal": ((101, 101), (339, 355), (385, 387)),
    "primate": ((365, 384),),
    "thing": ((398, 923), (999, 999)),
    "food": ((924, 969),),
    "landscape": ((970, 980),),
    "person": ((981, 983),),
    "plant": ((984, 998),),
}


def group_space() -> LabelSpace:
    """The groups, with the numbers of their classes as aliases."""
    categories = []
    for i, (name, stretches) in enumerate(GROUPS.items()):
        numbers = [str(k) for first, last in stretches for k in range(first, last + 1)]
        # Half of the classes are things: that one is there tells nothing.
        ignore = name == "thing"
        categories.append(Category(i, name, tuple(numbers), ignore=ignore))
    return LabelSpace("groups", tuple(categories))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        labels = read_partial(args.labels)
        write_partial(in_space(labels, group_space()), args.out)
    except RelabelError as error:
        print(f"imagenet_groups: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
