"""Checking a dataset: its annotation files as the readers see them, then every image."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.findings import tell_findings
from relabel.datasets.formats.pairing import ABSENT
from relabel.datasets.pixels.location import check_size, image_location, is_packed, load_rgb
from relabel.errors import DataError, Problems, RelabelError
from relabel.workspace.cores import reading_threads
from relabel.workspace.progress import progress

_BLOCK = 64


def validate(
    read: Callable[[str | None, Problems], DetectionDataset],
    path: str,
    *,
    split: str | None = None,
    one_split: bool = False,
    decode: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Collect everything that is wrong with a dataset.

    Args:
        read: reads a split of it, or what is read where none is named, reporting bad records to
            the problems given.
        path: what the user calls it, named where a problem has no file of its own.
        split: the one to check; default all that it has.
        one_split: the same is read whatever the split's name, so that it is read once.
        decode: decode every image whole; otherwise only its header is read.

    Returns:
        ``ok``, false if there is any error, and ``problems``, each with ``severity``, ``file``,
        ``record`` and ``message``. What readers treat by themselves (boxes clipped or dropped) is
        a warning with a count, and what is likely to be a mistake is one, too: see
        `relabel.datasets.findings`. Where only an annotation file is given and none of its images
        is found, that is one warning.
    """
    problems = Problems(skip_bad=True)
    checked: dict[str, DetectionDataset] = {}
    failed: RelabelError | None = None
    try:
        checked[split or ""] = read(split, problems)
    except RelabelError as error:
        failed = error
    except OSError as error:
        text = f"cannot be read: {error.strerror or error}"
        failed = DataError(text, file=error.filename or path)
    except Exception as error:
        # A reader that fails in a way of its own has still found a file it cannot read.
        text = f"cannot be read: {type(error).__name__}: {error}"
        failed = DataError(" ".join(text.split()), file=path)
    packed = any(is_packed(image_location(d, 0)) for d in checked.values() if len(d))
    splits = {} if packed or one_split else _readable_splits(read)
    if failed is not None and len(splits) > 1 and split is None and "--split" in str(failed):
        failed = None
    if failed is not None:
        problems.report(failed, path)
    elif split is None:
        _add_unseen(checked, splits, problems)
    problems.found = [p for p in problems.found if ABSENT not in p.message]
    for dataset in checked.values():
        check_images(dataset, problems, path, decode=decode, quiet=quiet)
    if checked:
        tell_findings(checked, {name: split for name, (split, _) in splits.items()}, problems, path)
    for text in problems.summary(records=True):
        problems.warning(text, file=path)
    found = sorted(problems.found, key=lambda p: p.severity != "error")
    return {"ok": problems.ok, "problems": [asdict(p) for p in found]}


def _readable_splits(
    read: Callable[[str | None, Problems], DetectionDataset],
) -> dict[str, tuple[DetectionDataset, Problems]]:
    """Train, val and test, as far as they are there, and what reading them found.

    None where all are the same images, as of a file that knows no splits. One that cannot be read
    is left out: it may not be there, and else it is told where its name is given.
    """
    found: dict[str, tuple[DetectionDataset, Problems]] = {}
    for name in ("train", "val", "test"):
        problems = Problems(skip_bad=True)
        with suppress(Exception):
            found[name] = read(name, problems), problems
    images = {frozenset(split.images.file_name) for split, _ in found.values()}
    return found if len(images) > 1 or len(found) == 2 else {}


def _add_unseen(
    checked: dict[str, DetectionDataset],
    splits: Mapping[str, tuple[DetectionDataset, Problems]],
    problems: Problems,
) -> None:
    """Add the splits that are not what is read by default, or a part of it."""
    seen = {name for dataset in checked.values() for name in dataset.images.file_name}
    for name, (split, found) in splits.items():
        if not seen.issuperset(split.images.file_name):
            checked[name] = split
            problems.add(found)


def check_images(
    dataset: DetectionDataset,
    problems: Problems,
    path: str,
    *,
    decode: bool = True,
    quiet: bool = False,
) -> None:
    """Report images that are missing, damaged, or not of the size their annotations state."""
    places = (image_location(dataset, i) for i in range(len(dataset)))
    plain = [place for place in places if not is_packed(place)]
    if plain and Path(path).is_file() and not any(map(os.path.isfile, plain)):
        problems.warning(
            f"none of the {len(plain)} images was found in {dataset.root}: images not checked",
            file=path,
        )
        return
    rows = np.arange(len(dataset))
    blocks = np.split(rows, range(_BLOCK, len(rows), _BLOCK)) if len(rows) else []

    def check(block: np.ndarray) -> list[tuple[int, DataError]]:
        return [(int(i), why) for i in block if (why := _fault(dataset, int(i), decode))]

    with (
        progress("Checking images", len(dataset), unit="images", quiet=quiet) as bar,
        ThreadPoolExecutor(reading_threads()) as pool,
    ):
        # Neighbouring images lie in the same archive or row group: a block stays in one thread.
        for block, faults in zip(blocks, pool.map(check, blocks), strict=True):
            for row, why in faults:
                problems.report(why, image_location(dataset, row))
            bar.update(len(block))


def _fault(dataset: DetectionDataset, row: int, decode: bool) -> DataError | None:
    try:
        if decode:
            load_rgb(dataset, row)
        else:
            check_size(dataset, row)
    except DataError as error:
        return error
    return None
