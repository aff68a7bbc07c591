"""Checking a dataset: its annotation files as the readers see them, then every image."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.pairing import ABSENT
from relabel.datasets.pixels.location import check_size, image_location, is_packed, load_rgb
from relabel.errors import DataError, Problems, RelabelError
from relabel.workspace.cores import reading_threads
from relabel.workspace.progress import progress

_BLOCK = 64


def validate(
    read: Callable[[Problems], DetectionDataset],
    path: str,
    *,
    decode: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Collect everything that is wrong with a dataset.

    Args:
        read: reads it, reporting bad records to the problems given.
        path: what the user calls it, named where a problem has no file of its own.
        decode: decode every image whole; otherwise only its header is read.

    Returns:
        ``ok``, false if there is any error, and ``problems``, each with ``severity``, ``file``,
        ``record`` and ``message``. What readers treat by themselves (boxes clipped or dropped) is
        a warning with a count. Where only an annotation file is given and none of its images is
        found, that is one warning.
    """
    problems = Problems(skip_bad=True)
    try:
        dataset = read(problems)
    except RelabelError as error:
        problems.report(error, path)
    except OSError as error:
        problems.error(f"cannot be read: {error.strerror or error}", file=error.filename or path)
    except Exception as error:
        # A reader that fails in a way of its own has still found a file it cannot read.
        text = f"cannot be read: {type(error).__name__}: {error}"
        problems.error(" ".join(text.split()), file=path)
    else:
        problems.found = [p for p in problems.found if ABSENT not in p.message]
        check_images(dataset, problems, path, decode=decode, quiet=quiet)
    for text in problems.summary():
        problems.warning(text, file=path)
    found = sorted(problems.found, key=lambda p: p.severity != "error")
    return {"ok": problems.ok, "problems": [asdict(p) for p in found]}


def check_images(
    dataset: DetectionDataset,
    problems: Problems,
    path: str,
    *,
    decode: bool = True,
    quiet: bool = False,
) -> None:
    """Report images that are missing, damaged, or not of the size their annotations state."""
    plain = [i for i in range(len(dataset)) if not is_packed(image_location(dataset, i))]
    present = [Path(image_location(dataset, i)).is_file() for i in plain]
    if plain and not any(present) and Path(path).is_file():
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
