"""Classes that differ in left and right alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


def other_side(names: Sequence[str], category: int) -> int:
    """Position of the class that has left for right in its name, or the other way round; or -1.

    >>> names = ["left hand", "head", "right hand"]
    >>> other_side(names, 0), other_side(names, 1)
    (2, -1)
    """
    if category >= len(names):
        return -1
    name = names[category].lower()
    turned = _SIDE.sub(lambda found: "right" if found[0].lower() == "left" else "left", name)
    if turned == name:
        return -1
    return next((k for k, other in enumerate(names) if other.lower() == turned), -1)
