"""Bringing predictions onto the truth's images and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset
from relabel.datasets.formats.coco.read import positions
from relabel.errors import DataError, did_you_mean


def in_id_order(dataset: DetectionDataset) -> DetectionDataset:
    """The dataset with its images in the order of their ids, as COCO's evaluation takes them."""
    ids = dataset.images.id
    return dataset if bool(np.all(ids[1:] > ids[:-1])) else dataset.subset(np.argsort(ids))


def join_by_id(predictions: DetectionDataset, truth: DetectionDataset) -> Boxes:
    """Predictions on the truth's rows, for AP: nothing may be left over.

    Images are joined by id when every image with boxes has the same ``file_name`` in both files
    (or one of them gives no names), else by ``file_name``. Categories likewise, by id when the
    names agree, else by name.

    Raises:
        DataError: a prediction on an image or of a category the truth does not have.
    """
    if predictions.images is truth.images:  # a results list
        return predictions.boxes
    used = np.unique(predictions.boxes.image)
    rows = _rows_by_id(predictions, truth)
    if _named(predictions) and _named(truth):
        ours, theirs = predictions.images.file_name, truth.images.file_name
        if not all(rows[i] >= 0 and ours[i] == theirs[int(rows[i])] for i in used.tolist()):
            rows = _in_table(ours, truth)
    missing = used[rows[used] < 0]
    if len(missing):
        image = int(missing[0])
        raise DataError(
            f"image {_image_text(predictions, image)} does not exist in {truth.name}",
            file=predictions.name,
            record=f"image id {int(predictions.images.id[image])}",
            remedy="Predict on the images of the truth file, or give the truth file that fits.",
        )
    return _onto(predictions.boxes, rows, _category_positions(predictions, truth, by_id=True))


def join_by_name(
    predictions: DetectionDataset, truth: DetectionDataset, *, categories: bool = True
) -> tuple[Boxes, list[str]]:
    """Predictions on the truth's rows, for transfer: joined by ``file_name``.

    An image not found by its whole ``file_name`` is looked for by its last part, where that is
    unique in both files (one side may carry a folder prefix). Boxes on images the truth does not
    have are left out. Files without names are joined by id.

    Args:
        predictions: the annotation set.
        truth: what to bring it onto.
        categories: also bring the categories onto the truth's, by name; if False they stay.

    Returns:
        The boxes on the truth's images, and warnings about images on one side only.

    Raises:
        DataError: no image in common, or a category the truth does not have.
    """
    rows = image_rows(predictions, truth)
    warnings = []
    found = rows[rows >= 0]
    total = len(truth)
    absent = total - len(np.unique(found))
    if absent:
        warnings.append(
            f"{absent} of {total} images of {truth.name} are missing in {predictions.name}; "
            "they count as images without boxes"
        )
    extra = int((rows < 0).sum())
    if extra:
        warnings.append(f"{extra} images of {predictions.name} are not in {truth.name}; left out")
    boxes = predictions.boxes.take(np.flatnonzero(rows[predictions.boxes.image] >= 0))
    place = None
    if categories:
        kept = predictions.with_boxes(boxes)
        place = _category_positions(kept, truth, by_id=False)
    return _onto(boxes, rows, place), warnings


def image_rows(predictions: DetectionDataset, truth: DetectionDataset) -> np.ndarray:
    """int64 [images of the predictions]: rows of the truth, -1 where it has none.

    Images are found as `join_by_name` says.

    Raises:
        DataError: no image in common.
    """
    if predictions.images is truth.images:  # a results list has the truth's image ids
        return np.arange(len(truth))
    if not (_named(predictions) and _named(truth)):
        rows = _rows_by_id(predictions, truth)
    else:
        rows = _in_table(predictions.images.file_name, truth)
        _complete_by_basename(rows, predictions.images.file_name, truth.images.file_name)
    if len(truth) and len(rows) and not (rows >= 0).any():
        raise DataError(
            f"has no image in common with {truth.name}; its first is "
            f"{_image_text(predictions, 0)}, there it is {_image_text(truth, 0)}",
            file=predictions.name,
            remedy="Images are joined by file_name.",
        )
    return rows


def _category_positions(
    predictions: DetectionDataset, truth: DetectionDataset, *, by_id: bool
) -> np.ndarray:
    """int64 [categories of the predictions]: position in the truth, -1 where unused there.

    ``ignore`` categories go past the truth's last one: their boxes are regions.

    Raises:
        DataError: a class with boxes does not exist in the truth.
    """
    ours, theirs = predictions.space, truth.space
    classes = ours.num_classes
    used = np.unique(predictions.boxes.category)
    used = used[used < classes]
    place = {name: i for i, name in enumerate(theirs.class_names)}
    rows = np.array([place.get(n, -1) for n in ours.class_names], dtype=np.int64)
    if by_id:
        ids = _where(ours.ids[:classes], theirs.ids[: theirs.num_classes])
        agree = all(ids[k] >= 0 and ours.names[k] == theirs.names[ids[k]] for k in used.tolist())
        rows = ids if agree else rows
    unknown = used[rows[used] < 0]
    if len(unknown):
        category = ours.categories[int(unknown[0])]
        raise DataError(
            f"category {category.name!r} does not exist in {truth.name}",
            file=predictions.name,
            record=f"category id {category.id}",
            remedy=did_you_mean(category.name, theirs.class_names),
        )
    return np.append(rows, np.full(len(ours) - classes, len(theirs)))


def _onto(boxes: Boxes, rows: np.ndarray, categories: np.ndarray | None) -> Boxes:
    """Boxes on other image rows and, where given, category positions."""
    image = rows[boxes.image].astype(np.int32)
    category = boxes.category
    if categories is not None and len(categories):
        category = categories[category].astype(np.int32)
    boxes = replace(boxes, image=image, category=category)
    if bool(np.any(image[1:] < image[:-1])):
        boxes = boxes.take(np.argsort(image, kind="stable"))
    return boxes


def _rows_by_id(predictions: DetectionDataset, truth: DetectionDataset) -> np.ndarray:
    return _where(predictions.images.id, truth.images.id)


def _where(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """int64 [len(ids)]: positions in ``known``, -1 where absent."""
    at, found = positions(ids, known)
    return np.where(found, at, -1)


def _named(dataset: DetectionDataset) -> bool:
    return all(dataset.images.file_name)


def _in_table(names: Sequence[str], truth: DetectionDataset) -> np.ndarray:
    """int64 [len(names)]: the truth's images of these names, -1 where it has none."""
    table = rows_by_name(truth.images.file_name, truth.name)
    return np.array([table.get(plain_name(n), -1) for n in names], dtype=np.int64)


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


def plain_name(name: str) -> str:
    """A file name with forward slashes and nothing before its first folder."""
    name = name.replace("\\", "/").lstrip("/")
    while name.startswith("./"):
        name = name[2:]
    return name


def rows_by_name(names: Sequence[str], file: str | Path) -> dict[str, int]:
    """Rows of images by their `plain_name`.

    Raises:
        DataError: a name that appears twice.
    """
    table: dict[str, int] = {}
    for row, name in enumerate(map(plain_name, names)):
        if table.setdefault(name, row) != row:
            raise DataError(
                f"file name {name!r} appears twice",
                file=file,
                record=f"records {table[name] + 1} and {row + 1}",
                remedy="Images are joined by file name; make them unique.",
            )
    return table


def _base(name: str) -> str:
    return plain_name(name).rsplit("/", 1)[-1]


def _image_text(dataset: DetectionDataset, row: int) -> str:
    name = dataset.images.file_name[row]
    return repr(name) if name else str(int(dataset.images.id[row]))
