"""Bringing predictions onto the truth's images and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from relabel.errors import DataError, did_you_mean
from relabel.evaluation.annotations import ANY_CLASS, Annotations


def join_by_id(predictions: Annotations, truth: Annotations) -> Annotations:
    """Predictions on the truth's rows, for AP: nothing may be left over.

    Images are joined by id when every image with boxes has the same ``file_name`` in both files
    (or one of them gives no names), else by ``file_name``. Categories likewise, by id when the
    names agree, else by name.

    Raises:
        DataError: a prediction on an image or of a category the truth does not have.
    """
    used = np.unique(predictions.image)
    rows = _rows_by_id(predictions.image_id, truth.image_id)
    if predictions.file_name is not None and truth.file_name is not None:
        agree = all(
            rows[i] >= 0 and predictions.file_name[i] == truth.file_name[int(rows[i])]
            for i in used.tolist()
        )
        if not agree:
            rows = _rows_by_name(predictions.file_name, _name_table(truth))
    missing = used[rows[used] < 0]
    if len(missing):
        image = int(missing[0])
        raise DataError(
            f"image {_image_text(predictions, image)} does not exist in {truth.name}",
            file=predictions.name,
            record=f"image id {int(predictions.image_id[image])}",
            remedy="Predict on the images of the truth file, or give the truth file that fits.",
        )
    return _onto(predictions, truth, rows, category_positions(predictions, truth, by_id=True))


def join_by_name(
    predictions: Annotations, truth: Annotations, *, categories: bool = True
) -> tuple[Annotations, list[str]]:
    """Predictions on the truth's rows, for transfer: joined by ``file_name``.

    An image not found by its whole ``file_name`` is looked for by its last part, where that is
    unique in both files (one side may carry a folder prefix). Boxes on images the truth does not
    have are left out. Files without names are joined by id.

    Args:
        predictions: the annotation set.
        truth: what to bring it onto.
        categories: also bring the categories onto the truth's, by name; if False they stay.

    Returns:
        The predictions with the truth's images, and warnings about images on one side only.

    Raises:
        DataError: no image in common, or a category the truth does not have.
    """
    if predictions.image_id is truth.image_id:  # a results list has the truth's image ids
        rows = np.arange(len(truth.image_id))
    elif predictions.file_name is None or truth.file_name is None:
        rows = _rows_by_id(predictions.image_id, truth.image_id)
    else:
        rows = _rows_by_name(predictions.file_name, _name_table(truth))
        _complete_by_basename(rows, predictions.file_name, truth.file_name)
    warnings = []
    found = rows[rows >= 0]
    total = len(truth.image_id)
    if total and not len(found) and len(rows):
        raise DataError(
            f"has no image in common with {truth.name}; its first is "
            f"{_image_text(predictions, 0)}, there it is {_image_text(truth, 0)}",
            file=predictions.name,
            remedy="Images are joined by file_name.",
        )
    absent = total - len(np.unique(found))
    if absent:
        warnings.append(
            f"{absent} of {total} images of {truth.name} are missing in {predictions.name}; "
            "they count as images without boxes"
        )
    extra = int((rows < 0).sum())
    if extra:
        warnings.append(f"{extra} images of {predictions.name} are not in {truth.name}; left out")
    kept = predictions.take(rows[predictions.image] >= 0)
    if not categories:
        return replace(
            kept, image_id=truth.image_id, file_name=truth.file_name, image=rows[kept.image]
        ), warnings
    return _onto(kept, truth, rows, category_positions(kept, truth, by_id=False)), warnings


def category_positions(predictions: Annotations, truth: Annotations, *, by_id: bool) -> np.ndarray:
    """int64 [K of predictions]: position of each category in the truth, -1 where unused there.

    Raises:
        DataError: a category with boxes does not exist in the truth.
    """
    position = {name: i for i, name in enumerate(truth.category_name)}
    if len(position) < len(truth.category_name) and not by_id:
        raise DataError(
            "two categories have the same name",
            file=truth.name,
            remedy="Categories are joined by name; rename one.",
        )
    used = np.unique(predictions.category[predictions.category != ANY_CLASS])
    rows = np.array([position.get(n, -1) for n in predictions.category_name], dtype=np.int64)
    if by_id:
        same = {int(i): k for k, i in enumerate(truth.category_id)}
        ids = np.array([same.get(int(i), -1) for i in predictions.category_id], dtype=np.int64)
        agree = all(
            ids[k] >= 0 and predictions.category_name[int(k)] == truth.category_name[int(ids[k])]
            for k in used
        )
        rows = ids if agree else rows
    unknown = used[rows[used] < 0]
    if len(unknown):
        name = predictions.category_name[int(unknown[0])]
        raise DataError(
            f"category {name!r} does not exist in {truth.name}",
            file=predictions.name,
            record=f"category id {int(predictions.category_id[unknown[0]])}",
            remedy=did_you_mean(name, truth.category_name),
        )
    return rows


def _onto(
    predictions: Annotations, truth: Annotations, rows: np.ndarray, categories: np.ndarray
) -> Annotations:
    category = predictions.category
    if len(categories):
        category = np.where(category == ANY_CLASS, ANY_CLASS, categories[category])
    return replace(
        predictions,
        image_id=truth.image_id,
        file_name=truth.file_name,
        category_id=truth.category_id,
        category_name=truth.category_name,
        image=rows[predictions.image],
        category=category,
    )


def _rows_by_id(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int64 [len(ids)]: positions in ``known``, which ascends; -1 where absent."""
    if not len(known):
        return np.full(len(ids), -1)
    at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[at] == ids, at, -1)


def _name_table(truth: Annotations) -> dict[str, int]:
    names = truth.file_name or ()
    table = {_normal(name): i for i, name in enumerate(names)}
    if len(table) < len(names):
        seen: set[str] = set()
        double = next(n for n in names if _normal(n) in seen or seen.add(_normal(n)))
        raise DataError(
            f"file_name {double!r} is used by two images",
            file=truth.name,
            remedy="Images are joined by file_name; make them unique.",
        )
    return table


def _rows_by_name(names: Sequence[str], table: dict[str, int]) -> np.ndarray:
    return np.array([table.get(_normal(n), -1) for n in names], dtype=np.int64)


def _complete_by_basename(rows: np.ndarray, names: Sequence[str], known: Sequence[str]) -> None:
    """Fill the -1 entries of ``rows`` whose last path part is unique on both sides."""
    taken = set(rows[rows >= 0].tolist())
    ours: dict[str, list[int]] = {}
    theirs: dict[str, list[int]] = {}
    for i in np.flatnonzero(rows < 0).tolist():
        ours.setdefault(_base(names[i]), []).append(i)
    for k, name in enumerate(known):
        if k not in taken:
            theirs.setdefault(_base(name), []).append(k)
    for base, mine in ours.items():
        others = theirs.get(base, [])
        if len(mine) == 1 and len(others) == 1:
            rows[mine[0]] = others[0]


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _base(name: str) -> str:
    return _normal(name).rsplit("/", 1)[-1]


def _image_text(annotations: Annotations, row: int) -> str:
    if annotations.file_name is not None:
        return repr(annotations.file_name[row])
    return str(int(annotations.image_id[row]))
