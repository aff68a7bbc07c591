"""Cityscapes: ``leftImg8bit/{split}/{city}/`` images and ``gtFine/{split}/{city}/`` annotations.

The box of an object is its visible extent. It is read from ``instanceIds.png``, where every pixel
holds ``label id * 1000 + instance`` or, for a group of objects, the bare label id.
Where that file is absent the polygons are drawn in file order (nearer objects come later) into
the same kind of map. Each connected region of a group becomes one ignore box of its class: one
box around all groups of a class could cover half of the image. Caravans and trailers, which the
benchmark does not evaluate, are ignore boxes too.

Source: Cordts et al., The Cityscapes Dataset, CVPR 2016, and its published file layout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats.box_checks import SKIP, checked_boxes, numbered_images
from relabel.datasets.formats.records import convert_record
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import image_size
from relabel.errors import DataError, Problem, Problems, did_you_mean
from relabel.files.json_text import parse_json
from relabel.files.opening import read_bytes
from relabel.geometry import xyxy_to_xywh
from relabel.workspace.cores import reading_threads

# Every label an annotation file may name. Label -1 is part of the car it is mounted on and is not
# drawn into the instance maps.
_LABELS: dict[str, int] = {
    name: i
    for i, name in enumerate(
        (
            *("unlabeled", "ego vehicle", "rectification border", "out of roi", "static"),
            *("dynamic", "ground", "road", "sidewalk", "parking", "rail track", "building"),
            *("wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup"),
            *("traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider"),
            *("car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle"),
        )
    )
} | {"license plate": -1}
_NAMES = {i: name for name, i in _LABELS.items()}
_FIRST_BOXED, _LAST_LABEL = 24, 33
_INSTANCES = 1000
_MAX_SIDE = 1 << 15
_IMAGE_SUFFIX = "_leftImg8bit.png"
_PNG_END = b"IEND\xaeB`\x82"


class _Object(msgspec.Struct, gc=False):
    label: str
    polygon: list[tuple[float, float]]
    deleted: Any = 0


class _Annotation(msgspec.Struct, gc=False):
    imgHeight: int
    imgWidth: int
    objects: list[_Object]


class _LooseAnnotation(msgspec.Struct):
    imgHeight: int
    imgWidth: int
    objects: list[Any]


@dataclass(frozen=True)
class _Frame:
    """The files of one image; ``image`` is None where only annotations were downloaded."""

    file_name: str
    image: Path | None
    annotation: Path  # path and name up to "instanceIds.png" or "polygons.json"


@dataclass(frozen=True)
class _Content:
    """What one image holds: xyxy float64 [n, 4], label ids [n], group flags [n]."""

    size: tuple[int, int]
    xyxy: np.ndarray
    label: np.ndarray
    group: np.ndarray


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
    workers: int | None = None,
) -> DetectionDataset:
    """Read one split of Cityscapes, all cities.

    Args:
        path: the folder that holds ``leftImg8bit/`` and ``gtFine/``.
        split: ``train`` (default), ``val`` or ``test``, whose published labels are empty dummies.
        annotations: the annotation folder, default ``gtFine``; ``gtCoarse`` has the same form.
        workers: threads that decode annotation images; default one per core, at most 16.

    Raises:
        DataError: files are missing, damaged or contradict each other.
    """
    split = split or "train"
    space = space or LabelSpace.load("cityscapes")
    frames = _frames(path, annotations or "gtFine", split, problems)
    if split == "test":
        problems.warning(
            "the published test labels are dummies: these images are not free of objects",
            file=path / (annotations or "gtFine") / split,
        )
    workers = workers or reading_threads()
    pool = ThreadPoolExecutor(workers)
    kept: list[_Frame] = []
    contents: list[_Content] = []
    try:
        results = pool.map(lambda frame: _read_frame(frame, problems.skip_bad), frames)
        for frame, (content, found) in zip(frames, results, strict=True):
            problems.found.extend(found)
            if content is not None:
                kept.append(frame)
                contents.append(content)
    finally:
        pool.shutdown(cancel_futures=True)
    return _assemble(path, name, space, kept, contents, problems)


def _assemble(
    path: Path,
    name: str,
    space: LabelSpace,
    frames: list[_Frame],
    contents: list[_Content],
    problems: Problems,
) -> DetectionDataset:
    images = numbered_images([f.file_name for f in frames], [c.size for c in contents])
    image = np.repeat(np.arange(len(frames)), [len(c.label) for c in contents])
    xyxy = np.concatenate([np.zeros((0, 4)), *(c.xyxy for c in contents)])
    label = np.concatenate([np.zeros(0, np.int64), *(c.label for c in contents)])
    group = np.concatenate([np.zeros(0, bool), *(c.group for c in contents)])

    position = np.full(_LAST_LABEL + 1, -1)
    for i in range(_FIRST_BOXED, _LAST_LABEL + 1):
        found = space.get(_NAMES[i])
        position[i] = -1 if found is None else found
    category = position[label]
    known = category >= 0
    problems.count(f"of classes not in label space {space.name!r}: left out", int((~known).sum()))
    image, category, group = image[known], category[known], group[known]
    boxes = checked_boxes(
        image,
        xyxy_to_xywh(xyxy[known]),
        category,
        images,
        space,
        problems,
        path,
        lambda row: frames[image[row]].file_name,
        ignore=group,
    )
    return DetectionDataset(name, space, images, boxes, path)


def _frames(path: Path, kind: str, split: str, problems: Problems) -> list[_Frame]:
    image_root, truth_root = path / "leftImg8bit" / split, path / kind / split
    suffix = f"_{Path(kind).name}_"
    if not truth_root.is_dir():
        known = sorted(p.name for p in (path / kind).glob("*") if p.is_dir())
        raise DataError(
            f"no {kind}/{split} folder",
            file=path,
            remedy=f"Splits here: {', '.join(known)}."
            if known
            else "Point at the folder that holds leftImg8bit/ and gtFine/.",
        )
    truth: dict[tuple[str, str], str] = {}
    for file in sorted(truth_root.glob("*/*")):
        for ending in ("instanceIds.png", "polygons.json"):
            if file.name.endswith(suffix + ending):
                truth.setdefault((file.parent.name, file.name[: -len(suffix + ending)]), ending)

    def annotation(city: str, stem: str) -> Path:
        return truth_root / city / (stem + suffix)

    def file_name(city: str, stem: str) -> str:
        return f"leftImg8bit/{split}/{city}/{stem}{_IMAGE_SUFFIX}"

    if not (path / "leftImg8bit").is_dir():
        problems.warning("no leftImg8bit folder: annotations are read without images", file=path)
        frames = [_Frame(file_name(*key), None, annotation(*key)) for key in truth]
    else:
        images = {
            (file.parent.name, file.name.removesuffix(_IMAGE_SUFFIX)): file
            for file in sorted(image_root.glob(f"*/*{_IMAGE_SUFFIX}"))
        }
        for city, stem in sorted(truth.keys() - images.keys()):
            problems.error(
                f"has no image {file_name(city, stem)}",
                file=f"{annotation(city, stem)}{truth[city, stem]}",
                remedy="Download leftImg8bit again, or leave it out with --skip-bad.",
            )
        frames = [_Frame(file_name(*key), images[key], annotation(*key)) for key in images]
    if not frames:
        raise DataError(
            "holds no Cityscapes images",
            file=image_root,
            remedy=f"It needs {{city}}/*{_IMAGE_SUFFIX} files.",
        )
    return frames


def _read_frame(frame: _Frame, skip_bad: bool) -> tuple[_Content | None, list[Problem]]:
    # Runs in a thread: findings go into a collector of its own, merged in order by the caller.
    problems = Problems(skip_bad=skip_bad)
    content = None
    with problems.catching(""):
        content = _content(frame, problems)
    return content, problems.found


def _content(frame: _Frame, problems: Problems) -> _Content:
    prefix = frame.annotation
    instances = prefix.with_name(prefix.name + "instanceIds.png")
    polygons = prefix.with_name(prefix.name + "polygons.json")
    if instances.exists():
        source, ids = instances, _read_instance_ids(instances)
    elif polygons.exists():
        source, ids = polygons, _draw_polygons(polygons, problems)
    else:
        raise DataError(
            f"has neither {instances.name} nor {polygons.name}",
            file=frame.image,
            remedy=f"Download the annotations to {prefix.parent}, or use --skip-bad.",
        )
    size = (ids.shape[1], ids.shape[0])
    if frame.image is not None:
        _check_image(frame.image, size, source)
    xyxy, label, group = instance_boxes(ids, problems, source)
    return _Content(size, xyxy, label, group)


def _check_image(image: Path, size: tuple[int, int], source: Path) -> None:
    found = image_size(str(image))
    if found != size:
        raise DataError(
            f"is {found[0]}x{found[1]}, its annotation {source.name} is {size[0]}x{size[1]}",
            file=image,
            remedy="Use the images and annotations of the same release.",
        )
    with image.open("rb") as stream:
        stream.seek(-min(64, image.stat().st_size), os.SEEK_END)
        if _PNG_END not in stream.read():
            raise DataError("image is cut off", file=image, remedy="Download the file again.")


def _read_instance_ids(file: Path) -> np.ndarray:
    """The instance map of one image, an integer array [H, W]."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("I;16", "I;16B", "I", "L"):
                raise DataError(
                    f"has pixel mode {image.mode}, expected 16-bit grey",
                    file=file,
                    remedy="Use gtFine's instanceIds.png, not a coloured picture of it.",
                )
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"image cannot be decoded: {error}", file=file, remedy="Download the file again."
        ) from error


def instance_boxes(
    ids: np.ndarray, problems: Problems, file: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The visible extents in an instance map, integers [H, W].

    Returns:
        xyxy: float64 [n, 4]; the last pixel's right and bottom edges are included.
        label: int64 [n], Cityscapes label ids.
        group: bool [n], a region of objects not distinguished.
    """
    if ids.size and int(ids.min()) < 0:
        raise DataError("holds negative instance ids", file=file, remedy="Download it again.")
    present = np.flatnonzero(np.bincount(ids.ravel()))
    labels = np.where(present >= _INSTANCES, present // _INSTANCES, present)
    for value in present[labels > _LAST_LABEL]:
        problems.error(
            f"instance id {value} belongs to no Cityscapes label",
            file=file,
            record=f"instance {value}",
            remedy="Use instanceIds.png, not a map of training ids.",
        )
    boxed = (labels >= _FIRST_BOXED) & (labels <= _LAST_LABEL)
    single = present[boxed & (present >= _INSTANCES)]
    regions: list[tuple[Any, int, bool]] = []
    if len(single):
        number = np.zeros(int(present[-1]) + 1, dtype=np.int32)
        number[single] = np.arange(1, len(single) + 1)
        found = ndimage.find_objects(number[ids], len(single))
        regions += [(s, v // _INSTANCES, False) for s, v in zip(found, single, strict=True)]
    for value in present[boxed & (present < _INSTANCES)]:
        parts, _ = ndimage.label(ids == value, structure=np.ones((3, 3)))  # type: ignore[misc]
        regions += [(s, value, True) for s in ndimage.find_objects(parts)]
    xyxy = [(x.start, y.start, x.stop, y.stop) for (y, x), _, _ in regions]
    return (
        np.array(xyxy, dtype=np.float64).reshape(-1, 4),
        np.array([label for _, label, _ in regions], dtype=np.int64),
        np.array([group for _, _, group in regions], dtype=bool),
    )


def _draw_polygons(file: Path, problems: Problems) -> np.ndarray:
    """The instance map int32 [H, W] that the polygons of one file describe."""
    annotation = _read_annotation(file, problems)
    width, height = annotation.imgWidth, annotation.imgHeight
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise DataError(
            f"image size {width}x{height} is not possible", file=file, remedy="Download it again."
        )
    canvas = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    counts: dict[int, int] = {}
    for i, item in _objects(annotation, file, problems):
        label = _label_id(item.label)
        if label is None:
            problems.error(
                f"unknown label {item.label!r}",
                file=file,
                record=f"object {i}",
                remedy=did_you_mean(item.label, _LABELS),
            )
            continue
        value, group = label
        if value < 0:
            continue
        if value >= _FIRST_BOXED and not group:
            number = counts.get(value, 0)
            if number == _INSTANCES:
                raise DataError(f"more than {_INSTANCES} objects labelled {item.label}", file=file)
            counts[value] = number + 1
            value = value * _INSTANCES + number
        draw.polygon([(x, y) for x, y in item.polygon], fill=value)
    return np.asarray(canvas)


def _label_id(label: str) -> tuple[int, bool] | None:
    """Label id and whether the polygon is a group; None for an unknown label."""
    if label in _LABELS:
        return _LABELS[label], False
    single = label.removesuffix("group")
    if single != label and single in _LABELS:
        return _LABELS[single], True
    return None


def _read_annotation(file: Path, problems: Problems) -> _Annotation | _LooseAnnotation:
    data = read_bytes(file, remedy="Download the annotations again.")
    try:
        return msgspec.json.decode(data, type=_Annotation)
    except msgspec.MsgspecError:
        loose = convert_record(
            parse_json(data, file),
            _LooseAnnotation,
            path=file,
            record="",
            problems=Problems(),
        )
        assert loose is not None  # a collector that does not skip raises
        return loose


def _objects(
    annotation: _Annotation | _LooseAnnotation, file: Path, problems: Problems
) -> Iterator[tuple[int, _Object]]:
    """The objects that are not deleted and fit the format, with their places in the file."""
    for i, raw in enumerate(annotation.objects):
        item = (
            raw
            if isinstance(raw, _Object)
            else convert_record(raw, _Object, path=file, record=f"object {i}", problems=problems)
        )
        if item is None or item.deleted:
            continue
        if len(item.polygon) < 2 or not np.isfinite(item.polygon).all():
            problems.error(
                "polygon has fewer than two vertices or one that is not finite",
                file=file,
                record=f"object {i}",
                remedy=SKIP,
            )
            continue
        yield i, item
