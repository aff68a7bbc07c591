"""The classes that are in each image, from the files they come in.

- ``real``: ReaL's ``real.json`` (Beyer et al., "Are we done with ImageNet?"): list ``i``, from 0,
  belongs to ``ILSVRC2012_val_{i + 1:08d}.JPEG``; class ids are 0-based. An empty list says that
  nothing is known about the image.
- ``inv2``: multi-labels of ImageNetV2, an object of file name: list of class ids as strings.
- ``imagenetv2``: the folder of ImageNetV2 itself. The name of each image's folder *is* its class:
  ``10`` is class 10, although it sorts before ``2``.
- ``coco``, ``voc``: a detection set; its boxes' categories. Classes go by their position among the
  categories sorted by id, those marked ``ignore`` left out. An ``iscrowd`` region shows that the
  class is there, so it counts. As in VOC's classification task, a class of which an image has
  only ``difficult`` objects (COCO: ``ignore``) is ignored in that image.
- ``tsv``: the project's released format; the classes from a threshold on, and the original label.
- ``partial``: a CSV, JSON or Parquet file of what is known, see `relabel.datasets.partial.files`; a
  class about which nothing is known is ignored in that image.

Shape legend: ``N`` images, ``C`` classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.sparse import csr_array, vstack

from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.formats.records import collector_paused
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.multilabels import box_labels, label_matrix, label_rows, read_tsv
from relabel.errors import ConfigError, DataError, Problems, did_you_mean
from relabel.evaluation.multilabel.joining import IMAGE_KINDS
from relabel.files.json_text import parse_json
from relabel.files.opening import read_bytes
from relabel.files.walk import is_hidden, walk_files

IMAGENET_CLASSES = 1000
_REAL_LISTS = 50_000
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,19}\s*")
_XML_FOLDERS = ("Annotations", "annotations")


@dataclass(frozen=True, eq=False)
class Truths:
    """True classes of N images.

    Attributes:
        file: where they come from, for messages.
        format: a key of `FORMATS`.
        file_names: N names, relative, with forward slashes.
        labels: bool [N, C], true classes per image; an image without any is not evaluated. C is
            one more than the largest class where ``space`` does not say.
        ignored: bool [N, C], classes that are neither true nor false in an image.
        space: the classes by position, where the format says which there are.
        imagenet: whether classes are ImageNet's.
        tells_empty: an image without any true class has none of them, rather than nobody having
            looked.
        notes: what the user should know about the file.
    """

    file: Path
    format: str
    file_names: list[str]
    labels: csr_array
    ignored: csr_array | None = None
    space: LabelSpace | None = None
    imagenet: bool = False
    tells_empty: bool = False
    notes: list[str] = field(default_factory=list)


def read_truths(path: str | Path, format: str | None = None, *, threshold: float = 0.5) -> Truths:
    """Read the true classes.

    Args:
        path: file or folder.
        format: a key of `FORMATS`; default found out from the content.
        threshold: of a TSV, the minimum probability of a true class.

    Raises:
        ConfigError: unknown format.
        DataError: missing or damaged, of no known format, or a class id that is none.
    """
    path = Path(path).expanduser()
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown truth format {format!r}", remedy=did_you_mean(format, FORMATS))
    if not path.exists():
        raise DataError("no such file or folder", file=path, remedy="Check the path.")
    kind = format or detect(path)
    if kind == "tsv":
        return _tsv(path, threshold)
    return FORMATS[kind](path)


def detect(path: Path) -> str:
    """The format of a file or folder, from what is in it.

    Raises:
        DataError: none of the known ones.
    """
    if path.is_dir():
        if any(next(path.glob(g), None) for g in ("Annotations", "*.xml", "VOC*/Annotations")):
            return "voc"
        folders = [p.name for p in path.iterdir() if p.is_dir() and not is_hidden(p.name)]
        if folders and all(re.fullmatch(r"[0-9]{1,5}", name) for name in folders):
            return "imagenetv2"
        return "coco"
    if path.suffix.lower() == ".xml" or path.parent.name == "Main":
        return "voc"
    if path.suffix.lower() in (".csv", ".parquet"):
        return "partial"
    head = read_bytes(path)[: 1 << 16].lstrip()
    if head[:1] == b"[":
        return "real"
    if head[:1] == b"{":
        fields = _decode(path, dict[str, msgspec.Raw])
        if {"images", "classes"} <= set(fields):
            return "partial"
        if {"images", "annotations"} <= set(fields):
            return "coco"
        return "partial" if _lists_positions(fields.values()) else "inv2"
    if head[:1] == b"<":
        return "voc"
    if b"\t" in head:
        return "tsv"
    raise DataError(
        "is none of the known kinds of truth",
        file=path,
        remedy="Give real.json, a multi-label JSON, COCO, VOC, a TSV or labels as CSV or Parquet "
        f"({', '.join(FORMATS)}).",
    )


def _lists_positions(values: Iterable[msgspec.Raw]) -> bool:
    """Whether lists have numbers, as released partial labels have; ImageNetV2's have texts."""
    first = next((value for value in values if bytes(value).strip(b"[] \n") != b""), None)
    try:
        return first is not None and bool(msgspec.json.decode(first, type=list[int]))
    except msgspec.MsgspecError:
        return False


def _decode(path: Path, kind: Any, *, keys_once: bool = False) -> Any:
    """JSON as a type.

    Args:
        keys_once: refuse a key that an object holds twice; takes a few times as long.
    """
    data = read_bytes(path)
    try:
        with collector_paused():
            if keys_once:
                return msgspec.convert(parse_json(data, path), kind)
            return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at ")
        raise DataError(
            message[:1].lower() + message[1:].replace("`", "'"),
            file=path,
            record=where.strip("`").removeprefix("$").removeprefix(".") or None,
            remedy="Correct the record, or name the format with --truth-format.",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        parse_json(data, path)  # says more of what is wrong
        raise DataError(
            f"is not valid JSON: {error}",
            file=path,
            remedy="The file may be cut off; write or download it again.",
        ) from error


def _real(path: Path) -> Truths:
    lists = _decode(path, list[list[int]])
    notes = []
    if len(lists) != _REAL_LISTS:
        notes.append(f"{path} holds {len(lists)} lists; ReaL has {_REAL_LISTS}")
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, len(lists) + 1)]
    for i, ids in enumerate(lists):
        _check_classes(ids, path, f"list {i} ({names[i]})")
    return Truths(path, "real", names, _matrix(lists), imagenet=True, notes=notes)


def _inv2(path: Path) -> Truths:
    content = _decode(path, dict[str, list[str | int]], keys_once=True)
    lists = []
    for name, ids in content.items():
        record = f"image {name!r}"
        bad = [k for k in ids if isinstance(k, str) and not _WHOLE.fullmatch(k)]
        if bad:
            raise _bad_class(path, record, bad[0])
        lists.append([int(k) for k in ids])
        _check_classes(lists[-1], path, record)
    return Truths(path, "inv2", list(content), _matrix(lists), imagenet=True)


def _check_classes(ids: list[int], path: Path, record: str) -> None:
    for label in ids:
        if not 0 <= label < MOST_CLASSES:
            raise _bad_class(path, record, label)


def _imagenetv2(path: Path) -> Truths:
    names, classes = [], []
    folders = [p for p in path.iterdir() if p.is_dir() and re.fullmatch(r"[0-9]{1,5}", p.name)]
    for folder in sorted(folders, key=lambda p: (int(p.name), p.name)):
        files = walk_files(folder, IMAGE_KINDS)
        names += [f"{folder.name}/{name}" for name in files]
        classes += [[int(folder.name)]] * len(files)
    if not names:
        raise DataError(
            "no images in folders named by class number",
            file=path,
            remedy="Point at the folder that holds 0/ to 999/.",
        )
    return Truths(path, "imagenetv2", names, _matrix(classes), imagenet=True)


def _coco(path: Path) -> Truths:
    """Sizes and boxes do not matter here, so they are not checked."""
    from relabel.datasets.formats.coco.decode import decode
    from relabel.datasets.formats.coco.layout import find_annotations
    from relabel.datasets.formats.coco.read import (
        first_of_each,
        label_space,
        located,
        names_from_url,
    )

    file, problems = find_annotations(path, split=None, annotations=None), Problems()
    decoded = decode(file, problems)
    space, _ = label_space(decoded.categories, file.stem, file, problems)
    space = LabelSpace(file.stem, tuple(sorted(space.categories, key=lambda c: c.id)))
    images = decoded.images
    first_of_each(images.id, "image", file, problems)
    names_from_url(images, file, problems)
    names = [name or "" for name in images.file_name]
    boxes = decoded.annotations
    _, _, rows, classes = located(boxes, images.id, space.ids, file, problems)
    truths = _from_boxes(file, "coco", names, space, rows, classes, boxes.ignore)
    return replace(truths, notes=_told(problems))


def _voc(path: Path) -> Truths:
    """A folder, an image set ``ImageSets/Main/{split}.txt``, or a single XML file."""
    from relabel.datasets.formats.registry import read_dataset

    folder, listing = path, None
    if not path.is_dir():
        path = path.absolute()
        above = [p for p in path.parents if any((p / n).is_dir() for n in _XML_FOLDERS)]
        folder, listing = (above or [path.parent])[0], str(path)
    problems = Problems()
    dataset = read_dataset(folder, "voc", annotations=listing, problems=problems)
    boxes = dataset.boxes
    names = list(dataset.images.file_name)
    truths = _from_boxes(
        path, "voc", names, dataset.space, boxes.image, boxes.category, boxes.ignore
    )
    return replace(truths, notes=_told(problems))


def _told(problems: Problems) -> list[str]:
    return [f"{p.file}: {p.message}" for p in problems.found]


def _from_boxes(
    file: Path,
    format: str,
    names: list[str],
    space: LabelSpace,
    rows: np.ndarray,
    classes: np.ndarray,
    doubtful: np.ndarray,
) -> Truths:
    labels, ignored = box_labels(rows, classes, doubtful, (len(names), space.num_classes))
    return Truths(file, format, names, labels, ignored, space, tells_empty=True)


def _tsv(path: Path, threshold: float) -> Truths:
    table = read_tsv(path)
    sure = table.labels.data >= np.float32(threshold)
    given = np.flatnonzero(table.gt >= 0)
    ids = np.concatenate([table.labels.indices[sure], table.gt[given]])
    rows = np.concatenate([label_rows(table.labels)[sure], given])
    labels = label_matrix(rows, ids, (len(table), int(ids.max(initial=-1)) + 1))
    return Truths(path, "tsv", list(table.file_names), labels)


def _partial(path: Path) -> Truths:
    from relabel.datasets.partial.files import read_partial
    from relabel.datasets.partial.labels import check_room

    given = read_partial(path)
    space = LabelSpace.from_names(given.name, given.classes)
    rows = label_rows(given.known)[given.known.data > 0]
    shape = (len(given), given.num_classes)
    labels = label_matrix(rows, given.known.indices[given.known.data > 0], shape)
    check_room(shape[0] * shape[1] - given.known.nnz, *shape, path)
    blocks = [csr_array(block == 0) for _, block in given.blocks()]
    unknown = csr_array(vstack(blocks, format="csr")) if blocks else csr_array(shape, dtype=bool)
    names = list(given.file_names)
    return Truths(path, "partial", names, labels, unknown, space, tells_empty=True)


def _matrix(lists: list[list[int]]) -> csr_array:
    """bool [N, C] from a list of classes per image."""
    ids = np.array([label for labels in lists for label in labels], np.int64)
    rows = np.repeat(np.arange(len(lists)), [len(labels) for labels in lists])
    return label_matrix(rows, ids, (len(lists), int(ids.max(initial=-1)) + 1))


def _bad_class(path: Path, record: str, value: object) -> DataError:
    text = repr(value) if isinstance(value, str) else str(value)
    return DataError(
        f"class id {text[:40]} is not a whole number from 0 to {MOST_CLASSES - 1}",
        file=path,
        record=record,
        remedy="Class ids are ImageNet's, 0 to 999.",
    )


FORMATS: dict[str, Callable[..., Truths]] = {
    "real": _real,
    "inv2": _inv2,
    "imagenetv2": _imagenetv2,
    "coco": _coco,
    "voc": _voc,
    "tsv": _tsv,
    "partial": _partial,
}
