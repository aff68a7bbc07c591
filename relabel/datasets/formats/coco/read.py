"""COCO instances JSON (and LVIS, which differs in where an image's path stands).

Format: https://cocodataset.org/#format-data. Boxes are xywh, 0-based and continuous, and are kept
as they are. ``iscrowd`` and ``ignore`` mark regions to leave out. What relabel does not work with
(segmentation, attributes, licences, ...) survives undecoded.

Shape legend: ``I`` images, ``n`` boxes, ``K`` categories of the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, make_boxes
from relabel.datasets.federated import without_federated
from relabel.datasets.formats.box_checks import check_file_name, clean_boxes, clipped_area
from relabel.datasets.formats.coco.columns import AnnotationColumns, CocoFile, ImageColumns
from relabel.datasets.formats.coco.decode import decode
from relabel.datasets.formats.coco.layout import find_annotations, find_images, find_root
from relabel.datasets.formats.coco.slowly import encoded
from relabel.datasets.formats.coco.whole import whole_number
from relabel.datasets.formats.records import collector_paused
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.datasets.pixels.placing import doubtful_names, file_name_fault
from relabel.errors import DataError, Problems
from relabel.files.json_text import raw_fields
from relabel.files.paths import posix

__all__ = ["CATEGORY_FIELDS", "read"]

# Ids that span less than this are looked up in a table instead of searched.
_TABLE_SPAN = 1 << 22

# Scores are kept in 32 bits.
_LARGEST_SCORE = float(np.finfo(np.float32).max)

LARGEST_ID = 2**53
"""Greatest id that every JSON reader keeps, since many read numbers as doubles."""

CATEGORY_FIELDS = "category_fields"
"""Key of `DetectionDataset.info` with the categories' own extra fields, by category name."""


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read a COCO dataset.

    Args:
        path: the JSON file, or a folder in one of the usual layouts (`find_annotations`).
        split: which annotation file of a folder.
        space: label space to read into; the file's category names are looked up in it. Default
            the file's own categories, ids kept.
        annotations: annotation file relative to ``path``.

    Returns:
        The dataset; ``info`` holds the file-level fields (``info``, ``licenses``, ...), and
        ``root`` is the folder in which the first image was found.

    Raises:
        DataError: missing, empty or truncated file; a record of the wrong shape or type; duplicate
            ids; unknown categories; annotations of absent images; file names that lead outside.
    """
    file = find_annotations(path, split=split, annotations=annotations)
    decoded = decode(file, problems)
    with collector_paused():
        own_space, category_fields = label_space(decoded.categories, name, file, problems)
        images = image_table(decoded.images, file, problems)
        root, outside = find_root(path, file, images.file_name, decoded.fields, split)
        images = find_images(images, root, file, problems)
        images = _fill_sizes(images, root, file, problems)
        boxes = _boxes(decoded, images, own_space, space, file, problems)
        if space is not None and _renumbers(own_space, space):
            images = replace(images, extra=without_federated(images.extra))
        if space is None:
            _tell_root_class(own_space, boxes, file, problems)
    info = dict(decoded.fields)
    if category_fields:
        info[CATEGORY_FIELDS] = category_fields
    return DetectionDataset(name, space or own_space, images, boxes, root, info, outside=outside)


def _tell_root_class(space: LabelSpace, boxes: Boxes, file: Path, problems: Problems) -> None:
    """Name a class that only groups the others, as Roboflow adds one."""
    counts = np.bincount(boxes.category, minlength=len(space.categories))
    groups: dict[str, list[str]] = defaultdict(list)
    for category in space.categories:
        if category.supercategory is not None and category.supercategory != category.name:
            groups[category.supercategory].append(category.name)
    for i, category in enumerate(space.categories):
        below = groups.get(category.name)
        if counts[i] or not below:
            continue
        problems.warning(
            f"category {category.name!r} has no boxes and only groups others "
            f"({', '.join(below[:3])}{', ...' if len(below) > 3 else ''}), as Roboflow writes it; "
            "it stays a class. To drop it, remove it from the file's categories, or convert with "
            "a --map that names the others only",
            file=file,
        )


def _renumbers(own: LabelSpace, space: LabelSpace) -> bool:
    """Whether a category of the file has another id in the space, or none."""
    theirs = {(category.name, category.id) for category in space.categories}
    return any((category.name, category.id) not in theirs for category in own.categories)


def label_space(
    rows: list[dict[str, Any]], name: str, file: str | Path, problems: Problems
) -> tuple[LabelSpace, dict[str, dict[str, Any]]]:
    """The categories of a file as a label space, and by name their fields that it has not.

    Raises:
        DataError: a category without integer id or name, or one that is listed twice.
    """
    categories: list[Category] = []
    fields: dict[str, dict[str, Any]] = {}
    ids: set[int] = set()
    for i, row in enumerate(rows):
        id, label = whole_number(row.get("id")), row.get("name")
        whole = isinstance(id, int) and not isinstance(id, bool) and abs(id) < 2**63
        record = f"category {id}" if whole else f"categories[{i}]"
        fault = None
        if not whole or not isinstance(label, str):
            fault = "needs an integer `id` and a string `name`"
        else:
            try:
                label.encode()
                encoded(row)
            except UnicodeEncodeError:
                fault = "has a name that is no Unicode text"
            except ValueError as error:
                fault = f"holds {error}"
        if fault is not None:
            problems.error(fault, file=file, record=record, remedy="Correct the category.")
        elif id in ids or label in fields:
            problems.error(
                f"category {f'id {id}' if id in ids else f'name {label!r}'} appears twice",
                file=file,
                record=record,
                remedy="Give every category its own id and name.",
            )
        else:
            assert isinstance(id, int) and isinstance(label, str)
            group = row.get("supercategory")
            categories.append(
                Category(
                    id,
                    label,
                    ignore=bool(row.get("ignore", False)),
                    supercategory=group if isinstance(group, str) else None,
                )
            )
            ids.add(id)
            fields[label] = {
                k: v for k, v in row.items() if k not in ("id", "name", "supercategory", "ignore")
            }
    return LabelSpace(name, tuple(categories)), {k: v for k, v in fields.items() if v}


def image_table(columns: ImageColumns, file: Path, problems: Problems) -> Images:
    """The images of a file, without those whose id or name is there twice or leads out.

    Raises:
        DataError: there are such, unless problems are to be skipped.
    """
    names, ids = columns.file_name, columns.id
    names_from_url(columns, file, problems)
    names[:] = [posix(n) if n and "\\" in n else n for n in names]
    keep = first_of_each(ids, "image", file, problems)
    images = Images(
        ids, [n or "" for n in names], columns.width, columns.height, extra=columns.extra
    )
    if keep.all() and len(set(names)) == len(names) and not doubtful_names(images.file_name):
        return images
    seen: set[str] = set()
    for i, file_name in enumerate(names):
        if file_name is None or not keep[i]:
            keep[i] = False
        elif file_name_fault(file_name) is not None:
            keep[i] = check_file_name(
                file_name, problems=problems, file=file, record=f"image {ids[i]}"
            )
        elif file_name in seen:
            keep[i] = False
            problems.error(
                f"file_name {file_name!r} appears twice",
                file=file,
                record=f"image {ids[i]}",
                remedy="Merge the two image records.",
            )
        else:
            seen.add(file_name)
    return images if keep.all() else images.take(np.flatnonzero(keep))


def names_from_url(columns: ImageColumns, file: str | Path, problems: Problems) -> None:
    """LVIS: an image without file_name is called by the last two parts of its coco_url.

    Raises:
        DataError: an image has neither.
    """
    names = columns.file_name
    if None not in names:
        return
    for i, name in enumerate(names):
        if name is not None:
            continue
        extra = columns.extra[i] if columns.extra is not None else None
        url = None
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # half a character is no address
            url = msgspec.json.decode(raw_fields(extra).get("coco_url", b"null"))
        if isinstance(url, str) and url:
            names[i] = "/".join(url.rsplit("/", 2)[-2:])
        else:
            problems.error(
                "has neither file_name nor coco_url",
                file=file,
                record=f"image {columns.id[i]}",
                remedy="Name the image's file.",
            )


def _fill_sizes(images: Images, root: Path, file: Path, problems: Problems) -> Images:
    """Sizes that the file leaves out, from the headers of the images."""
    unknown = np.flatnonzero((images.width == 0) | (images.height == 0))
    for i in unknown.tolist():
        place = images.location[i] if images.location is not None else ""
        try:
            size = image_size(place or str(root / images.file_name[i]))
            images.width[i], images.height[i] = size
        except DataError:
            problems.error(
                f"has no width and height, and {images.file_name[i]!r} cannot be read",
                file=file,
                record=f"image {images.id[i]}",
                remedy="Add the size, or put the image in place.",
            )
    return images


def _boxes(
    decoded: CocoFile,
    images: Images,
    own_space: LabelSpace,
    space: LabelSpace | None,
    file: Path,
    problems: Problems,
) -> Boxes:
    columns = decoded.annotations
    ids, keep, image, category = located(columns, images.id, own_space.ids, file, problems)
    xywh, n = columns.xywh, len(ids)
    for row in np.flatnonzero(keep & (np.abs(columns.score) > _LARGEST_SCORE)).tolist():
        keep[row] = False
        problems.error(
            f"score {columns.score[row]:g} is too large",
            file=file,
            record=f"annotation {ids[row]}",
            remedy="Correct the score, or leave the annotation out with --skip-bad.",
        )
    if space is not None:
        category = into_space(space, own_space, category, keep, file, problems)
        keep &= category >= 0
    ignore = columns.crowd | columns.ignore
    if len(own_space):
        ignore = ignore | (space or own_space).ignore_mask[category]
    rows = np.flatnonzero(keep)
    inside, clean = clean_boxes(
        image[rows], xywh[rows], images.width, images.height, problems, file,
        lambda i: f"annotation {ids[rows[i]]}",
    )  # fmt: skip
    area = np.where(np.isfinite(columns.area), columns.area, xywh[:, 2] * xywh[:, 3])[rows]
    area = clipped_area(area, xywh[rows], clean)
    # By image, and within it in file order.
    kept = np.flatnonzero(inside)
    kept = kept[np.argsort(image[rows[kept]] * np.int64(n) + kept)]
    rows, clean, area = rows[kept], clean[kept], area[kept]
    unchanged = len(rows) == n and bool(np.all(rows[1:] > rows[:-1]))
    return make_boxes(
        image[rows],
        clean,
        category[rows],
        score=columns.score[rows],
        ignore=ignore[rows],
        id=ids[rows],
        area=area,
        extra=columns.extra if columns.extra is None or unchanged else columns.extra.take(rows),
    )


def located(
    columns: AnnotationColumns,
    image_ids: np.ndarray,
    category_ids: np.ndarray,
    file: str | Path,
    problems: Problems,
    *,
    record_of: Callable[[int], str] | None = None,
    owner: str = "the file",
    remedies: Callable[[int], tuple[str, str]] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where annotations belong.

    Args:
        columns: n annotations.
        image_ids, category_ids: int64 ids, unique, any order.
        file: named in errors.
        problems: receives annotations that belong nowhere, and a warning of ids that appear twice.
        record_of: names the annotation in a row, default by its id.
        owner: whose the ids are.
        remedies: what to do about a row whose image, or category, is unknown.

    Returns:
        ids: int64 [n]; annotations without an id, or with one that an earlier annotation has, are
            numbered from the largest one on.
        keep: bool [n], False on those reported.
        image, category: int64 [n], positions among the ids; 0 where ``keep`` is False.

    Raises:
        DataError: one that belongs nowhere, unless problems are to be skipped.
    """
    ids = _numbered(columns, file, problems)
    named = record_of or (lambda row: f"annotation {ids[row]}")
    keep = np.ones(len(ids), dtype=bool)
    image, found = positions(columns.image_id, image_ids)
    for row in np.flatnonzero(keep & ~found).tolist():
        problems.error(
            f"belongs to image {columns.image_id[row]}, which is not in {owner}",
            file=file,
            record=named(row),
            remedy=remedies(row)[0]
            if remedies
            else "Add the image or remove the annotation, or use --skip-bad.",
        )
    keep &= found
    category, found = positions(columns.category_id, category_ids)
    for row in np.flatnonzero(keep & ~found).tolist():
        problems.error(
            f"category_id {columns.category_id[row]} is not in {owner}'s categories",
            file=file,
            record=named(row),
            remedy=remedies(row)[1]
            if remedies
            else "Add the category or remove the annotation, or use --skip-bad.",
        )
    keep &= found
    return ids, keep, image, category


def _numbered(columns: AnnotationColumns, file: str | Path, problems: Problems) -> np.ndarray:
    """Ids with a number for every annotation that has none of its own."""
    stated = np.flatnonzero(columns.numbered)
    ids = columns.id
    twice = stated[_duplicates(ids[stated])]
    new = np.sort(np.concatenate([np.flatnonzero(~columns.numbered), twice]))
    if not len(new):
        return ids
    known = ids[stated]
    last = int(known.max(initial=0))
    if last + len(new) <= LARGEST_ID:
        numbers = np.arange(last + 1, last + 1 + len(new))
    else:
        numbers = np.setdiff1d(np.arange(1, len(ids) + 1), known)[: len(new)]
    out = ids.copy()
    out[new] = numbers
    if len(twice):
        row = int(twice[0])
        first = int(np.flatnonzero(columns.numbered & (ids == ids[row]))[0])
        more = f"; {len(twice)} annotations were renumbered" if len(twice) > 1 else ""
        problems.warning(
            f"annotation id {ids[row]} appears twice, on image {columns.image_id[first]} and on "
            f"image {columns.image_id[row]}: the second is number {out[row]} from here on{more}",
            file=file,
            record=f"annotations[{first}] and [{row}]",
        )
    return out


def first_of_each(ids: np.ndarray, kind: str, file: str | Path, problems: Problems) -> np.ndarray:
    """bool [n], False where an id stands in an earlier row too.

    Raises:
        DataError: there are such, unless problems are to be skipped.
    """
    keep = np.ones(len(ids), dtype=bool)
    for row in _duplicates(ids).tolist():
        keep[row] = False
        problems.error(
            f"{kind} id {ids[row]} appears twice",
            file=file,
            record=f"{kind} {ids[row]}",
            remedy=f"Give every {kind} its own id.",
        )
    return keep


def _duplicates(ids: np.ndarray) -> np.ndarray:
    """Rows whose id stands in an earlier row."""
    if len(ids) < 2 or bool(np.all(ids[1:] > ids[:-1])):
        return np.zeros(0, np.int64)
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def positions(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each value in ``known`` (unique, any order), and whether it is there."""
    if not len(known):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    low, high = int(known.min()), int(known.max())
    if high - low < _TABLE_SPAN:
        table = np.full(high - low + 1, -1, dtype=np.int64)
        table[known - low] = np.arange(len(known))
        within = (values >= low) & (values <= high)
        position = table[np.where(within, values, low) - low]
        found = within & (position >= 0)
        return np.where(found, position, 0), found
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    position = order[at]
    return position, known[position] == values
