"""FiftyOne dataset folders, as ``dataset.export`` and `relabel.datasets.formats.fiftyone.write` do.

Format: ``fiftyone.types.FiftyOneDataset`` of FiftyOne 1.22: ``metadata.json`` with the fields,
``samples.json`` (or ``samples/*.json``) with one document per image; or one ``labels.json``, see
`relabel.datasets.formats.fiftyone.labels_json`. Boxes are ``[x, y, w, h]`` in
fractions of the image, 0-based and continuous. Read without a database and without importing
fiftyone.

Shape legend: ``I`` images, ``n`` boxes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from relabel.datasets.dataset import DetectionDataset, Images
from relabel.datasets.formats.box_checks import SKIP, checked_boxes
from relabel.datasets.formats.coco.read import CATEGORY_FIELDS, label_space
from relabel.datasets.formats.fiftyone.fields import (
    Detection,
    Sample,
    further_fields,
    plain,
    stored_fields,
)
from relabel.datasets.formats.fiftyone.labels_json import documents_of_labels
from relabel.datasets.formats.pairing import tell_absent
from relabel.datasets.formats.records import convert_record
from relabel.datasets.formats.splits import find_split
from relabel.datasets.labelspace import Category, LabelSpace
from relabel.datasets.namemap import into_space
from relabel.datasets.pixels.location import image_size
from relabel.datasets.pixels.placing import file_name_fault
from relabel.errors import DataError, Problems
from relabel.files.json_text import parse_json, read_object
from relabel.files.paths import posix
from relabel.files.walk import walk_files

_REMEDY = "Point at the folder that FiftyOne or relabel wrote, with metadata.json and samples.json."
_KINDS = ("Detections", "Detection")
_MASKS = "with a mask, of which the box alone is read"
# Fractions times sizes give back the pixels they came from only up to rounding, by far less.
_DECIMALS = 9


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read a FiftyOne dataset folder.

    Args:
        path: the folder.
        split: a tag of samples; default all samples.
        space: label space to read into; default the classes that the folder tells.
        annotations: the label field; default the one relabel wrote, else ``ground_truth``, else
            the only one with detections.

    Raises:
        DataError: missing or damaged files, another kind of media, no label field or several to
            choose from, no such tag, boxes or names of the wrong type.
    """
    if not (path / "metadata.json").exists() and (path / "labels.json").is_file():
        file, (metadata, documents) = path / "labels.json", documents_of_labels(path, problems)
    else:
        metadata = read_object(path / "metadata.json", remedy=_REMEDY)
        file, documents = _documents(path)
    ours = _ours(metadata, path / "metadata.json")
    samples: list[tuple[Sample, dict[str, Any]]] = []
    for i, document in enumerate(documents):
        record = _record(i, document)
        sample = convert_record(document, Sample, path=file, record=record, problems=problems)
        if sample is not None:
            samples.append((sample, document))
    samples = _of_split(samples, split, file)
    field = _label_field(metadata, ours, samples, annotations, path)
    own, category_fields = _space(name, metadata, ours, field, path, problems)

    images, root, outside, kept = _images(samples, path, file, problems)
    rows, detections, records = [], [], []
    for row, i in enumerate(kept):
        for k, detection in enumerate(_detections(samples[i][1], field, file, problems)):
            rows.append(row)
            detections.append(detection)
            records.append(f"{images.file_name[row]}, {field} {k}")
    own = _with_found(own, [d.label for d, _ in detections])
    positions = {label: i for i, label in enumerate(own.names)}
    image = np.array(rows, dtype=np.int32)
    size = np.stack([images.width, images.height] * 2, axis=1).astype(np.float64)
    fractions = np.array([d.bounding_box for d, _ in detections], dtype=np.float64).reshape(-1, 4)
    exact = fractions * size[image]
    xywh = np.round(exact, _DECIMALS)
    xywh = np.where(xywh == 0, exact, xywh)  # a side of no width would be no box any more
    category = np.array([positions[d.label] for d, _ in detections], dtype=np.int32)
    keep = np.ones(len(image), bool)
    if space is not None:
        category = into_space(space, own, category, keep, file, problems)
        keep &= category >= 0
    problems.count(_MASKS, sum("mask" in raw or "mask_path" in raw for _, raw in detections))
    extra = [
        stored_fields(d, raw, file=file, record=records[i]) for i, (d, raw) in enumerate(detections)
    ]
    area = np.array([np.nan if d.area is None else d.area for d, _ in detections], np.float64)
    score = [np.nan if d.confidence is None else d.confidence for d, _ in detections]
    chosen = np.flatnonzero(keep)
    boxes = checked_boxes(
        image[chosen],
        xywh[chosen],
        category[chosen],
        images,
        space or own,
        problems,
        file,
        lambda i: records[chosen[i]],
        ignore=np.array([bool(d.ignore or d.iscrowd) for d, _ in detections], bool)[chosen],
        area=np.where(np.isfinite(area), area, xywh[:, 2] * xywh[:, 3])[chosen],
        extra=[extra[i] for i in chosen] if any(extra) else None,
        score=np.array(score, np.float32)[chosen],
        id=_ids([d.annotation_id for d, _ in detections], "annotation", file, problems)[chosen],
    )
    fields = ours.get("fields")
    info = dict(fields) if isinstance(fields, dict) else {}
    if category_fields:
        info[CATEGORY_FIELDS] = category_fields
    return DetectionDataset(name, space or own, images, boxes, root, info, outside=outside)


def _ours(metadata: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What relabel keeps in the dataset's ``info``: see the writer."""
    info = metadata.get("info")
    text = info.get("relabel") if isinstance(info, dict) else None
    if not isinstance(text, str):
        return {}
    found = parse_json(text.encode(errors="surrogatepass"), file, record="info.relabel")
    return found if isinstance(found, dict) else {}


def _documents(path: Path) -> tuple[Path, list[Any]]:
    """The sample documents, and the file that errors name."""
    file = path / "samples.json"
    folder = path / "samples"
    if not file.exists() and folder.is_dir():
        names = walk_files(folder, {".json"})
        if names:
            return folder, [read_object(folder / name, remedy=_REMEDY) for name in names]
    samples = read_object(file, remedy=_REMEDY).get("samples")
    if not isinstance(samples, list):
        raise DataError("has no list `samples`", file=file, remedy=_REMEDY)
    return file, samples


def _record(i: int, document: Any) -> str:
    path = document.get("filepath") if isinstance(document, dict) else None
    return f"samples[{i}]" + (f" ({path})" if isinstance(path, str) else "")


def _of_split(
    samples: list[tuple[Sample, dict[str, Any]]], split: str | None, file: Path
) -> list[tuple[Sample, dict[str, Any]]]:
    other = next((s.media for s, _ in samples if s.media != "image"), None)
    if other is not None:
        raise DataError(
            f"holds samples of the kind {other!r}, not images",
            file=file,
            remedy="Export the images of the dataset, for example as a view of patches or frames.",
        )
    if split is None:
        return samples
    tags = dict.fromkeys(tag for sample, _ in samples for tag in sample.tags)
    wanted = find_split(split, tags, file=file)
    return [pair for pair in samples if wanted in pair[0].tags]


def _label_field(
    metadata: Mapping[str, Any],
    ours: Mapping[str, Any],
    samples: list[tuple[Sample, dict[str, Any]]],
    wanted: str | None,
    path: Path,
) -> str:
    """The field with the boxes to read."""
    declared = metadata.get("sample_fields")
    known: dict[str, None] = {}
    for field in declared if isinstance(declared, list) else ():
        if not isinstance(field, dict) or not isinstance(field.get("name"), str):
            continue
        kind = str(field.get("embedded_doc_type")).rpartition(".")[2]
        if kind in _KINDS:
            known[field["name"]] = None
    for _, document in samples:
        for key, value in document.items():
            if isinstance(value, dict) and value.get("_cls") in _KINDS:
                known.setdefault(key)
    names = list(known)
    if wanted is not None:
        if wanted in known:
            return wanted
        remedy = f"Known: {', '.join(names) or 'none'}."
        raise DataError(f"has no detections in a field {wanted!r}", file=path, remedy=remedy)
    for likely in (ours.get("label_field"), "ground_truth"):
        if likely in names:
            return likely
    if len(names) == 1:
        return names[0]
    if not names:
        raise DataError(
            "has no field with detections",
            file=path,
            remedy="Boxes are read from fields of FiftyOne's type Detections.",
        )
    raise DataError(
        f"has detections in the fields {', '.join(names)}",
        file=path,
        remedy="Name one in relabel.toml, as the file of the split: train = "
        f"{names[0]!r}; or call it ground_truth.",
    )


def _space(
    name: str,
    metadata: Mapping[str, Any],
    ours: Mapping[str, Any],
    field: str,
    path: Path,
    problems: Problems,
) -> tuple[LabelSpace, dict[str, dict[str, Any]]]:
    """The classes that the folder tells, with ids where relabel wrote them."""
    file = path / "metadata.json"
    kept = ours.get("categories")
    rows = kept.get(field) if isinstance(kept, dict) else None
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return label_space(rows, name, file, problems)
    classes = metadata.get("classes")
    names = classes.get(field) if isinstance(classes, dict) else None
    names = names or metadata.get("default_classes") or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise DataError(
            "has classes that are not names", file=file, record=f"classes.{field}", remedy=_REMEDY
        )
    return LabelSpace.from_names(name, dict.fromkeys(names)), {}


def _with_found(space: LabelSpace, labels: list[str]) -> LabelSpace:
    """The space with the labels that it lacks, in order of their names, after its own."""
    known = set(space.names)
    new = sorted(set(labels) - known)
    if not new:
        return space
    first = max((c.id for c in space.categories), default=0) + 1
    more = tuple(Category(first + i, label) for i, label in enumerate(new))
    return LabelSpace(space.name, (*space.categories, *more))


def _images(
    samples: list[tuple[Sample, dict[str, Any]]], path: Path, file: Path, problems: Problems
) -> tuple[Images, Path, bool, list[int]]:
    """The images, the folder of their names, whether any lies elsewhere, and of which samples."""
    places = [_place(sample.filepath, path) for sample, _ in samples]
    names = _names([sample for sample, _ in samples], places, path)
    kept: list[int] = []
    sizes: list[tuple[int, int]] = []
    extra: list[bytes | None] = []
    seen: dict[str, int] = {}
    for i, (sample, document) in enumerate(samples):
        record = _record(i, document)
        with problems.catching(file):
            fault = file_name_fault(names[i])
            if fault is None and names[i] in seen:
                fault = "appears twice"
            if fault is not None:
                raise DataError(
                    f"file name {names[i][:200]!r} {fault}", file=file, record=record, remedy=SKIP
                )
            size = sample.metadata and (sample.metadata.width, sample.metadata.height)
            if not size or min(size[0] or 0, size[1] or 0) <= 0:
                size = image_size(places[i])
            fields = further_fields(sample.other_fields, file=file, record=record, image=True)
            seen[names[i]] = i
            kept.append(i)
            sizes.append((int(size[0] or 0), int(size[1] or 0)))
            extra.append(fields)
    root = next((r for r in (path, path / "data") if _all_in(r, names, places, kept)), None)
    if root is None and kept:
        first = places[kept[0]].removesuffix(f"/{names[kept[0]]}")
        if first != places[kept[0]] and _all_in(Path(first), names, places, kept):
            root = Path(first)
    size = np.array(sizes, dtype=np.int32).reshape(-1, 2)
    images = Images(
        _ids([samples[i][0].image_id for i in kept], "image", file, problems),
        [names[i] for i in kept],
        size[:, 0],
        size[:, 1],
        location=None if root is not None else [places[i] for i in kept],
        extra=extra if any(extra) else None,
    )
    root = root or path
    absent = [names[i] for i in kept if not Path(places[i]).is_file()]
    tell_absent(absent, len(kept), root=root, file=file, problems=problems)
    whole = os.path.abspath(path)  # noqa: PTH100
    outside = any(not places[i].startswith(f"{whole}/") for i in kept)
    return images, root, outside, kept


def _place(filepath: str, folder: Path) -> str:
    """Where an image is: relative paths are so to the dataset's folder."""
    return os.path.normpath(os.path.join(os.path.abspath(folder), posix(filepath)))  # noqa: PTH100, PTH118


def _all_in(root: Path, names: list[str], places: list[str], rows: list[int]) -> bool:
    base = os.path.abspath(root)  # noqa: PTH100
    return all(places[i] == f"{base}/{names[i]}" for i in rows)


def _names(samples: list[Sample], places: list[str], folder: Path) -> list[str]:
    """File names: the ones relabel wrote, else what distinguishes the paths."""
    names = [sample.file_name or "" for sample in samples]
    bare = [i for i, name in enumerate(names) if not name]
    if not bare:
        return names
    data = f"{os.path.abspath(folder)}/data"  # noqa: PTH100
    heads = {os.path.dirname(places[i]) for i in bare}  # noqa: PTH120
    common = data if all(f"{head}/".startswith(f"{data}/") for head in heads) else None
    common = common or os.path.commonpath(list(heads))
    for i in bare:
        names[i] = PurePosixPath(places[i]).relative_to(common).as_posix()
    return names


def _detections(
    document: dict[str, Any], field: str, file: Path, problems: Problems
) -> Iterator[tuple[Detection, dict[str, Any]]]:
    """The detections of one sample that fit, as written too."""
    value = document.get(field)
    if value is None:
        return
    record = f"{document.get('filepath')}, {field}"
    found = value.get("detections", [value]) if isinstance(value, dict) else None
    if not isinstance(found, list):
        problems.error("holds no list of detections", file=file, record=record, remedy=SKIP)
        return
    for k, raw in enumerate(found):
        where = f"{record} {k}"
        if not isinstance(raw, dict):
            problems.error("is not an object", file=file, record=where, remedy=SKIP)
            continue
        raw = plain(raw)
        detection = convert_record(raw, Detection, path=file, record=where, problems=problems)
        if detection is not None:
            yield detection, raw


def _ids(given: list[int | None], kind: str, file: Path, problems: Problems) -> np.ndarray:
    """int64 [n]: the ids given where each is there once, else numbers from 1."""
    n = len(given)
    known = [i for i in given if i is not None]
    if len(known) < n:
        return np.arange(1, n + 1, dtype=np.int64)
    twice = [i for i, times in Counter(known).items() if times > 1]
    if not twice:
        return np.array(known, dtype=np.int64)
    problems.warning(
        f"{len(twice)} {kind} ids appear twice, such as {twice[0]}: all are renumbered from 1",
        file=file,
    )
    return np.arange(1, n + 1, dtype=np.int64)
