"""Whether images and label files found each other: what does not pair is told, never background."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path

from relabel.errors import DataError, Problems

_NEARLY_NOTHING = 0.05
_SHOWN = 3
ABSENT = "images found in"
"""In the warning of `tell_absent`, which `validate` leaves out: it names every absent image."""


def check_pairing(
    *,
    paired: int,
    bare_images: Sequence[str],
    orphan_labels: Sequence[str],
    file: str | Path,
    problems: Problems,
    remedy: str,
    background: bool = True,
) -> None:
    """Tell what did not pair; fail where hardly anything did.

    Args:
        paired: how many images have their label file.
        bare_images: images without a label file.
        orphan_labels: label files without an image.
        file: the dataset's folder or file, for messages.
        remedy: where images and labels are looked for.
        background: whether an image without a label file counts as one without objects.

    Raises:
        DataError: there are images or labels, and next to none of the scarcer kind pairs.
    """
    images, labels = paired + len(bare_images), paired + len(orphan_labels)
    if not images and not labels:
        return
    scarcer = min(images, labels)
    if paired == 0 or paired < _NEARLY_NOTHING * scarcer:
        raise DataError(
            f"{paired} of {images} images and {labels} label files belong together"
            f"{_examples(bare_images, 'image')}{_examples(orphan_labels, 'label')}",
            file=file,
            remedy=remedy,
        )
    if bare_images:
        taken = "taken as without objects" if background else "left out"
        problems.warning(
            f"{len(bare_images)} of {images} images have no label file and are {taken}"
            f"{_examples(bare_images, 'image')}",
            file=file,
        )
    if orphan_labels:
        problems.warning(
            f"{len(orphan_labels)} of {labels} label files have no image and are left out"
            f"{_examples(orphan_labels, 'label')}",
            file=file,
        )


def tell_absent(
    absent: Sequence[str], total: int, *, root: Path, file: str | Path, problems: Problems
) -> None:
    """Warn of images that a label file names and that are not in their folder."""
    if not absent:
        return
    there = f"{total - len(absent)} of {total} {ABSENT} {root}"
    problems.warning(f"{there}{_examples(absent, 'absent:')}", file=file)


def _examples(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    shown = ", ".join(heapq.nsmallest(_SHOWN, names))
    more = ", ..." if len(names) > _SHOWN else ""
    return f" ({what} {shown}{more})"
