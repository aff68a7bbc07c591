"""Which prediction belongs to which image of the truth: by file name, whatever folder it is in.

Three steps, each for what the one before left over:

1. The same path.
2. The same name, case of the suffix aside or without one, where one path continues the other:
   ``val/n01440764/ILSVRC2012_val_00000001.JPEG`` is ``ILSVRC2012_val_00000001``.
3. Only where nothing agreed so far: the same name without folder and suffix, where it is unique on
   both sides. Where some paths do agree, different folders mean different images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relabel.errors import DataError
from relabel.evaluation.joining import plain_name, rows_by_name

IMAGE_KINDS = {f".{kind}": kind for kind in ("jpeg", "png", "bmp", "webp", "tiff")}
IMAGE_KINDS |= {".jpg": "jpeg", ".tif": "tiff"}


def join_images(
    truth: Sequence[str],
    predictions: Sequence[str],
    *,
    truth_file: str | Path = "the truth",
    predictions_file: str | Path = "the predictions",
) -> tuple[np.ndarray, list[int]]:
    """Find each image's prediction.

    Returns:
        int64 [images of the truth], the prediction of each, -1 where there is none; and the
        predictions of images that the truth does not have.

    Raises:
        DataError: a file name that appears twice, two predictions for one image, a prediction
            that fits several images.
    """
    true_names = [plain_name(name) for name in truth]
    names = [plain_name(name) for name in predictions]
    row_of = rows_by_name(true_names, truth_file)
    rows_by_name(names, predictions_file)
    record = np.full(len(truth), -1, dtype=np.int64)
    left = []
    for i, name in enumerate(names):
        row = row_of.get(name)
        if row is None:
            left.append(i)
        else:
            record[row] = i

    keys = [_Key.of(name) for name in true_names]
    by_stem: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        by_stem[key.stem].append(row)
    unknown = []
    for i in left:
        key = _Key.of(names[i])
        rows = [row for row in by_stem.get(key.stem, ()) if key.fits(keys[row])]
        if len(rows) > 1:
            raise DataError(
                f"file name {predictions[i]!r} fits {truth[rows[0]]!r} and {truth[rows[1]]!r} "
                f"of {truth_file}",
                file=predictions_file,
                remedy="Give file names with their folders.",
            )
        if not rows:
            unknown.append(i)
            continue
        if record[rows[0]] >= 0:
            other = predictions[int(record[rows[0]])]
            raise DataError(
                f"file names {other!r} and {predictions[i]!r} are both image {truth[rows[0]]!r}",
                file=predictions_file,
                remedy="Give one prediction per image.",
            )
        record[rows[0]] = i
    if unknown and not (record >= 0).any():
        unknown = _by_stem_alone(record, by_stem, names, unknown)
    return record, unknown


def _by_stem_alone(
    record: np.ndarray, by_stem: dict[str, list[int]], names: Sequence[str], left: Iterable[int]
) -> list[int]:
    ours: dict[str, list[int]] = defaultdict(list)
    for i in left:
        ours[_Key.of(names[i]).stem].append(i)
    unknown = []
    for stem, mine in ours.items():
        rows = by_stem.get(stem, [])
        if len(mine) == len(rows) == 1:
            record[rows[0]] = mine[0]
        else:
            unknown += mine
    return sorted(unknown)


@dataclass(frozen=True, slots=True)
class _Key:
    folders: tuple[str, ...]
    stem: str
    suffix: str

    @classmethod
    def of(cls, name: str) -> _Key:
        *folders, base = name.split("/")
        stem, dot, suffix = base.rpartition(".")
        kind = IMAGE_KINDS.get(dot + suffix.lower()) if stem else None
        # A dot that starts no image suffix belongs to the name.
        return cls(tuple(folders), stem if kind else base, kind or "")

    def fits(self, other: _Key) -> bool:
        """Same stem given: neither the suffixes nor the folders contradict each other."""
        if self.suffix and other.suffix and self.suffix != other.suffix:
            return False
        shared = min(len(self.folders), len(other.folders))
        return not shared or self.folders[-shared:] == other.folders[-shared:]
