"""Checking a dataset: its annotation files as the readers see them, then every image."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.pairing import ABSENT
from relabel.datasets.pixels.location import image_location, image_size, is_packed, read_image_bytes
from relabel.errors import Problems, RelabelError
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

    def check(block: np.ndarray) -> list[tuple[int, str]]:
        return [(int(i), why) for i in block if (why := _fault(dataset, int(i), decode))]

    with (
        progress("Checking images", len(dataset), unit="images", quiet=quiet) as bar,
        ThreadPoolExecutor(reading_threads()) as pool,
    ):
        # Neighbouring images lie in the same archive or row group: a block stays in one thread.
        for block, faults in zip(blocks, pool.map(check, blocks), strict=True):
            for row, why in faults:
                problems.error(
                    why,
                    file=image_location(dataset, row),
                    record=f"image {dataset.images.id[row]}",
                    remedy="Replace the file, or leave the image out.",
                )
            bar.update(len(block))


def _fault(dataset: DetectionDataset, row: int, decode: bool) -> str | None:
    location = image_location(dataset, row)
    try:
        if decode:
            with Image.open(io.BytesIO(read_image_bytes(location))) as image:
                image.load()
                size = image.size
        else:
            size = image_size(location)
    except RelabelError as error:
        return error.message
    except Exception as error:
        # Pillow's plugins raise what they like on damaged files: struct.error, IndexError, ...
        return f"image cannot be decoded: {' '.join(str(error).split())}"
    stated = (int(dataset.images.width[row]), int(dataset.images.height[row]))
    if size != stated:
        return f"is {size[0]}x{size[1]}, but the annotations say {stated[0]}x{stated[1]}"
    return None
