"""The layouts in which multi-label sets are released: COCO-2014, VOC's kit, VG-200, NUS-WIDE.

- ``coco``: ``annotations/instances_train2014.json`` beside ``train2014/``, or any other COCO file;
  any annotation makes its class present, crowds too, as in the public protocol.
- ``voc``: the development kit's folder; a class with ``difficult`` objects alone is unknown. (The
  public protocol counts it as absent.)
- ``vg200``: ``VG_100K/`` (and ``VG_100K_2/``), ``train_list_500.txt``, ``test_list_500.txt``,
  ``vg_category_200_labels_index.json``: an object of file name to class indices.
- ``nus_wide``: ``Flickr/``, ``Groundtruth/`` with a 0 or 1 per image and line in
  ``TrainTestLabels/Labels_NAME_Train.txt``, ``ImageList/TrainImagelist.txt``, ``Concepts81.txt``.

Images and classes keep the order of the files, as `hide` depends on it.

Shape legend: ``N`` images, ``C`` classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.datasets.formats.coco.decode import decode
from relabel.datasets.formats.coco.federated import federated_cells
from relabel.datasets.formats.coco.layout import find_annotations, find_images, find_root
from relabel.datasets.formats.coco.read import image_table, label_space, located
from relabel.datasets.formats.splits import split_kind, split_names
from relabel.datasets.multilabels import box_labels, label_shape
from relabel.datasets.partial.as_json import classes_by_name, labels_of_names
from relabel.datasets.partial.building import check_class_count, numbered_classes
from relabel.datasets.partial.detection import from_detection, known_of_boxes
from relabel.datasets.partial.files import check_names
from relabel.datasets.partial.labels import (
    ABSENT,
    PRESENT,
    PartialLabels,
    check_once,
    known_matrix,
    sparse_known,
    stacked,
)
from relabel.errors import DataError, Problems
from relabel.files.opening import open_file, read_text
from relabel.files.paths import posix
from relabel.files.walk import is_hidden

_VG_FOLDERS = ("VG_100K", "VG_100K_2")
_VG_LABELS = re.compile(r"_(\d{1,6})_labels_index\.json$")
_TEXT_CLASSES = "It must hold a class's name per line."
_NUS_LABELS = "It must hold a line with 0 or 1 per image of the list."
_BLOCK_IMAGES = 1 << 14


def read_coco(
    path: Path,
    split: str | None = None,
    *,
    name: str | None = None,
    annotations: str | None = None,
    problems: Problems | None = None,
) -> PartialLabels:
    """A COCO or LVIS file's labels.

    Args:
        path: the JSON file, or a folder in one of the usual layouts.
        split: which annotation file of a folder; ``test`` is ``val`` where there is no other, as
            COCO's own test images have no public labels.
        annotations: annotation file relative to ``path``.
        problems: receives bad records; default raises on the first.

    Raises:
        DataError: missing or damaged, a record of the wrong shape, a class or image twice, an
            annotation of an unknown image or category.
    """
    problems = Problems() if problems is None else problems
    file = _annotation_file(path, split, annotations)
    decoded = decode(file, problems)
    columns = decoded.annotations
    space, _ = label_space(decoded.categories, name or file.stem, file, problems)
    images = image_table(decoded.images, file, problems)
    root, _ = find_root(path, file, images.file_name, decoded.fields, split)
    images = find_images(images, root, file, problems)
    _, keep, row, label = located(columns, images.id, space.ids, file, problems)
    shape = (len(images), space.num_classes)
    present, doubtful = box_labels(row[keep], label[keep], columns.ignore[keep], shape)
    cells = federated_cells(images.extra, images.id, space.ids[: shape[1]], str(file))
    return PartialLabels(
        name or path.stem,
        root,
        list(images.file_name),
        tuple(space.class_names),
        known_of_boxes(present, doubtful, cells, file),
        images.location,
    )


def read_voc(path: Path, split: str | None = None, *, name: str | None = None) -> PartialLabels:
    """Labels of VOC's development kit.

    Args:
        path: a folder with ``Annotations/``, ``JPEGImages/`` and ``ImageSets/Main/``.
        split: an image set; ``train`` is ``trainval`` where there is one and a test set too, as the
            multi-label results are reported; ``test`` is ``val`` where there is no other. Default
            every XML.

    Raises:
        DataError: XML that is missing or damaged, an unknown split.
    """
    from relabel.datasets.formats.registry import read_dataset

    sets = {p.stem for p in path.glob("**/ImageSets/Main/*.txt")} if split else set()
    tested = bool(sets.intersection(split_names("test")))
    chosen = split
    # Without a test set val is measured on, and must not be among what is trained on.
    if split == "train" and "trainval" in sets and (tested or "train" not in sets):
        chosen = "trainval"
    elif split == "test" and sets and not tested:
        chosen = "val"
    labels = from_detection(read_dataset(path, "voc", name=name, split=chosen))
    return replace(labels, name=name or path.resolve().name)


def read_vg200(
    path: Path,
    split: str | None = None,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
) -> PartialLabels:
    """Labels of VG-200 and of sets in its layout; everything not listed is absent.

    Args:
        path: the folder with images, lists of names, and a JSON of file name to class indices.
        split: which list: ``train`` (default) or ``test``.
        classes: names, which the layout lacks; default numbers.

    Raises:
        DataError: a file is missing, damaged or ambiguous; an image without labels, or twice.
    """
    file = _only(
        path, ("*labels_index.json", "*.json"), "a JSON of file name to class indices", None
    )
    listing = _only(path, _lists(split or "train"), "a list of image names", split or "train")
    stated = _VG_LABELS.search(file.name)
    count = len(classes) if classes is not None else int(stated[1]) if stated else None
    check_class_count(count or 0, file)
    named, present = classes_by_name(file, count)
    lines = read_text(listing, remedy="It must hold a file name per line.").split("\n")
    names = [posix(line.strip()) for line in lines if line.strip()]
    check_once(names, "image", listing)
    check_names(names, listing)
    mine = labels_of_names(names, named, present, file, listing)
    root, places = _image_folder(path, [path / n for n in (*_VG_FOLDERS, "images", "")], names)
    own = numbered_classes(label_shape(present)[1]) if classes is None else tuple(classes)
    return PartialLabels(
        name or path.resolve().name, root, names, own, known_matrix(mine, file=file), places
    )


def read_nus_wide(
    path: Path, split: str | None = None, *, name: str | None = None
) -> PartialLabels:
    """Labels of NUS-WIDE's 81 concepts, all of which were looked for in every image.

    Args:
        path: the folder with ``Flickr/``, ``Groundtruth/``, ``ImageList/`` and ``Concepts81.txt``.
        split: ``train`` or ``test``; default all images.

    Raises:
        DataError: a file is missing or damaged, or does not have a line per image.
    """
    concepts = _first_file(path, ("Concepts81.txt", "ConceptsList/Concepts81.txt"))
    lines = read_text(concepts, remedy=_TEXT_CLASSES).split("\n")
    classes = tuple(line.strip() for line in lines if line.strip())
    check_class_count(len(classes), concepts)
    check_once(classes, "class", concepts)
    for label in classes:
        if "/" in label or "\\" in label:
            raise DataError(
                f"class {label!r} is no part of a file's name", file=concepts, remedy=_TEXT_CLASSES
            )
    listing, kind = _nus_list(path, split)
    lines = read_text(listing, remedy="It must hold an image's path per line.").split("\n")
    names = [posix(line.strip()) for line in lines if line.strip()]
    check_once(names, "image", listing)
    check_names(names, listing)
    inside = ("TrainTestLabels", "TrainTest") if kind else ("AllLabels", "AllLabels81")
    folders = [f"{top}{sub}" for top in ("Groundtruth/", "GroundTruth/", "") for sub in inside]
    suffix = f"_{kind}.txt" if kind else ".txt"
    # A column per class at a byte per image: a few megabytes of a real set.
    columns = np.empty((len(names), len(classes)), np.int8)
    for i, label in enumerate(classes):
        tried = tuple(f"{folder}/Labels_{label}{suffix}" for folder in folders)
        columns[:, i] = _zeros_and_ones(_first_file(path, tried), len(names), listing)
    parts = [
        sparse_known(np.where(columns[at : at + _BLOCK_IMAGES], PRESENT, ABSENT).astype(np.int8))
        for at in range(0, len(names), _BLOCK_IMAGES)
    ]
    candidates = [path / n for n in ("Flickr", "images", "Images", "")]
    root, places = _image_folder(path, candidates, names)
    known = stacked(parts, len(classes))
    return PartialLabels(name or path.resolve().name, root, names, classes, known, places)


LAYOUTS: dict[str, Callable[..., PartialLabels]] = {
    "coco": read_coco,
    "voc": read_voc,
    "vg200": read_vg200,
    "nus_wide": read_nus_wide,
}


def find_layout(path: Path) -> str | None:
    """The layout of a folder or file, a key of `LAYOUTS`; None where it is none."""
    if path.is_file():
        return "coco" if path.name.lower().endswith((".json", ".json.gz")) else None
    if any((path / n).is_file() for n in ("Concepts81.txt", "ConceptsList/Concepts81.txt")):
        return "nus_wide"
    if any(path.glob("*labels_index.json")):
        return "vg200"
    if any(path.glob("annotations/*.json")) or any(path.glob("annotations/*.json.gz")):
        return "coco"
    patterns = ("Annotations", "VOC*/Annotations", "VOCdevkit/VOC*/Annotations")
    if any(p for pattern in patterns for p in path.glob(pattern)):
        return "voc"
    files = [p.name for p in path.glob("*.json")] + [p.name for p in path.glob("*/_annotations*")]
    return "coco" if files else None


def training_split(layout: str, path: Path) -> str | None:
    """``train`` where a folder tells training images from others; None where all are one split."""
    if layout == "voc":
        sets = {p.stem for p in path.glob("**/ImageSets/Main/*.txt")}
        return "train" if sets & {"train", "trainval"} else None
    if layout == "nus_wide":
        return "train" if has_layout_split(layout, path, "train") else None
    return "train"


def has_layout_split(layout: str, path: Path, split: str) -> bool:
    """Whether a folder names the images of a split; its files are not read."""
    if layout == "voc":
        kinds = {split_kind(p.stem) for p in path.glob("**/ImageSets/Main/*.txt")}
        return split_kind(split) in kinds or (split == "test" and "val" in kinds)
    try:
        if layout == "coco":
            _annotation_file(path, split, None)
        elif layout == "vg200":
            _only(path, _lists(split), "a list of image names", split)
        else:
            _nus_list(path, split)
    except DataError:
        return False
    return True


def _annotation_file(path: Path, split: str | None, annotations: str | None) -> Path:
    try:
        return find_annotations(path, split=split, annotations=annotations)
    except DataError:
        if annotations or split != "test":
            raise
        try:
            return find_annotations(path, split="val", annotations=None)
        except DataError:
            pass
        raise


def _nus_list(path: Path, split: str | None) -> tuple[Path, str]:
    """NUS-WIDE's list of a split's images, and what its files call the split."""
    kind = {"train": "Train", "test": "Test", "val": "Test"}.get(split_kind(split or ""), "")
    if split and not kind:
        raise DataError(f"has no split {split!r}", file=path, remedy="Known: train, test.")
    names = tuple(f"{folder}{kind}Imagelist.txt" for folder in ("ImageList/", ""))
    return _first_file(path, names), kind


def _zeros_and_ones(file: Path, images: int, listing: Path) -> np.ndarray:
    """bool [N] of a file with a 0 or 1 (or -1 for absent) on each line."""
    with open_file(file, remedy=_NUS_LABELS) as stream:
        # Sixteen bytes a line hold a label however it is padded; more is another file.
        data = stream.read(16 * images + 4096)
        more = stream.read(1)
    values = np.array(data.split())
    known = np.isin(values, (b"0", b"1", b"-1"))
    if not known.all():
        at = int(np.flatnonzero(~known)[0])
        text = values[at][:40].decode(errors="replace")
        raise DataError(
            f"{text!r} is neither 0 nor 1", file=file, record=f"line {at + 1}", remedy=_NUS_LABELS
        )
    if len(values) != images or more:
        raise DataError(
            f"has {len(values)} lines{' or more' if more else ''}, but {listing} lists "
            f"{images} images",
            file=file,
            remedy="Take both files from the same release.",
        )
    return values == b"1"


def _image_folder(
    path: Path, folders: Sequence[Path], names: Sequence[str]
) -> tuple[Path, list[str] | None]:
    """The folder that names are relative to, and the places of images that lie elsewhere.

    Images are looked for in each folder as named, then without the folders of their names.
    """
    there = [folder for folder in folders if folder.is_dir()]
    if not there or not names:
        return path, None
    probes = [names[i] for i in sorted({0, len(names) // 2, len(names) - 1})]
    hits = [sum((folder / name).is_file() for name in probes) for folder in there]
    root = there[int(np.argmax(hits))]
    if max(hits) and "/" in probes[0]:
        return root, None
    content = {folder: _listing(folder) for folder in there if folder != path}
    here, places = content.get(root, set()), [""] * len(names)
    for i, name in enumerate(names):
        if name not in here:
            base = name.rpartition("/")[2]
            place = next((folder for folder, files in content.items() if base in files), None)
            places[i] = "" if place is None else str(place / base)
    return root, places if any(places) else None


def _listing(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 (names only)
    except OSError:
        return set()


def _lists(split: str) -> tuple[str, ...]:
    names = split_names(split)
    if split_kind(split) == "val":
        names += split_names("test")
    return tuple(pattern for n in names for pattern in (f"{n}_list*.txt", f"{n}*.txt"))


def _only(path: Path, patterns: Sequence[str], what: str, split: str | None) -> Path:
    """The only file of the first pattern that has any."""
    for pattern in patterns:
        found = sorted(p for p in path.glob(pattern) if p.is_file() and not is_hidden(p.name))
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"holds {', '.join(p.name for p in found[:4])}; only one can be {what}",
                file=path,
                remedy="Move the others away.",
            )
    text = f"{what} of split {split!r}" if split else what
    raise DataError(f"has no {text}", file=path, remedy=f"Name it like {patterns[0]}.")


def _first_file(path: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (path / name).is_file():
            return path / name
    raise DataError(
        f"has no file {names[0]!r}",
        file=path,
        remedy="Point at the folder that holds Groundtruth/, with all of its files.",
    )
