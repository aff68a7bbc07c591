"""nuImages: JSON tables in ``v1.0-{split}/`` beside ``samples/`` and ``sweeps/``.

Boxes are amodal: the whole extent of an object, occluded parts included, clipped to the image.
Only key frames are annotated; the sweeps between them are no images of the dataset.
``static_object.bicycle_rack`` becomes an ignore region. The token and the names of the attributes
survive as extra fields of each box; the mask does not, since it covers the visible part only.

Source: the schema published with nuImages (Caesar et al., nuScenes, CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from relabel.datasets.dataset import DetectionDataset, Images
from relabel.datasets.formats.box_checks import SKIP, ImageRows, checked_boxes
from relabel.datasets.formats.records import collector_paused, read_table
from relabel.datasets.formats.splits import find_split, split_kind
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems, did_you_mean
from relabel.files.walk import walk_files

_VERSION = "v1.0-"
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))
_MIXED = "Use the tables of one release, or leave it out with --skip-bad."
_REMEDY = "Extract all of the split's tables into this folder."


class _Named(msgspec.Struct, gc=False):
    """A category or an attribute."""

    token: str
    name: str


class _Sample(msgspec.Struct, gc=False):
    token: str
    key_camera_token: str | None = None


class _SampleData(msgspec.Struct, gc=False):
    token: str
    filename: str
    width: int | float
    height: int | float
    is_key_frame: bool = False
    sample_token: str | None = None


class _ObjectAnn(msgspec.Struct, gc=False):
    token: str
    sample_data_token: str
    category_token: str
    bbox: tuple[float, float, float, float]
    attribute_tokens: list[str] = []


def read(
    path: Path,
    *,
    name: str,
    split: str | None,
    problems: Problems,
    space: LabelSpace | None = None,
    annotations: str | None = None,
) -> DetectionDataset:
    """Read one split of nuImages.

    Args:
        path: the folder that holds ``v1.0-{split}/``, or that table folder itself.
        split: ``train`` or ``v1.0-train`` and so on; default train, or the only one there.
        annotations: the table folder relative to ``path``, in place of ``split``.

    Raises:
        DataError: a table is missing or damaged, or a token leads nowhere.
    """
    space = space or LabelSpace.load("nuimages")
    root, tables = _tables(path, split, annotations)
    with collector_paused():
        images, row_of = _images(tables, problems)
        columns = _Columns(tables, space, problems)
        columns.read(row_of)
    _check_images(root, images, problems)
    boxes = checked_boxes(
        columns.image,
        columns.xywh,
        columns.category,
        images,
        space,
        problems,
        columns.file,
        lambda row: f"token {columns.token[row]}",
        extra=columns.extra,
    )
    return DetectionDataset(name, space, images, boxes, root)


def _tables(path: Path, split: str | None, annotations: str | None) -> tuple[Path, Path]:
    """The root that file names are relative to, and the folder of the tables."""
    if annotations is not None:
        return path, path / annotations
    if split is None and (path / "object_ann.json").exists():
        return path.parent, path
    known = sorted(p.name for p in path.glob(f"{_VERSION}*") if p.is_dir())
    wanted = (split or "train").removeprefix(_VERSION)
    if split is None and len(known) == 1:
        return path, path / known[0]
    if known:
        found = find_split(wanted, [name.removeprefix(_VERSION) for name in known], file=path)
        return path, path / f"{_VERSION}{found}"
    own = path.absolute().name.removeprefix(_VERSION)
    if (path / "object_ann.json").exists() and split_kind(own) == split_kind(wanted):
        return path.parent, path
    raise DataError(
        f"no {_VERSION}{wanted} folder",
        file=path,
        remedy=f"Point at the folder that holds {_VERSION}train/ and samples/.",
    )


def _check_images(root: Path, images: Images, problems: Problems) -> None:
    """Tell which images are not there: the archives of samples are downloaded apart."""
    if not (root / "samples").is_dir():
        problems.warning("no samples folder: labels are read without images", file=root)
        return
    present = {f"samples/{name}" for name in walk_files(root / "samples", _SUFFIXES)}
    missing = [name for name in images.file_name if name not in present]
    if missing and len(missing) == len(images.id):
        raise DataError(
            f"holds none of the {len(missing)} images of the tables, such as {missing[0]}",
            file=root / "samples",
            remedy="Extract the archives of samples into this folder.",
        )
    if missing:
        problems.warning(
            f"{len(missing)} of {len(images.id)} images of the tables are not there; the first is "
            f"{missing[0]}",
            file=root,
        )


def _images(tables: Path, problems: Problems) -> tuple[Images, dict[str, int]]:
    """The key frames in the order of ``sample_data``, and the row of each sample_data token."""
    samples = tables / "sample.json"
    keys: dict[str, str] = {}
    seen: set[str] = set()
    for sample in read_table(samples, _Sample, problems, remedy=_REMEDY):
        if _unique(sample.token, seen, samples, problems) and sample.key_camera_token:
            keys[sample.key_camera_token] = sample.token
    file = tables / "sample_data.json"
    row_of: dict[str, int] = {}
    tokens: set[str] = set()
    images = ImageRows(problems)
    for row in read_table(file, _SampleData, problems, remedy=_REMEDY):
        if not (row.is_key_frame or row.token in keys):
            continue
        if not _unique(row.token, tokens, file, problems):
            continue
        keys.pop(row.token, None)
        size = row.width, row.height
        added = images.add(row.filename, size, file=file, record=f"token {row.token}")
        if added is not None:
            row_of[row.token] = added
    for token, sample in keys.items():
        problems.error(
            f"key_camera_token {token!r} is not in sample_data.json",
            file=samples,
            record=f"token {sample}",
            remedy=_MIXED,
        )
    return images.images(), row_of


def _unique(token: str, seen: set[str], file: Path, problems: Problems) -> bool:
    if token not in seen:
        seen.add(token)
        return True
    problems.error(
        f"token {token!r} appears twice", file=file, record=f"token {token}", remedy=SKIP
    )
    return False


class _Columns:
    """The boxes of ``object_ann.json`` as columns, filled record by record."""

    def __init__(self, tables: Path, space: LabelSpace, problems: Problems) -> None:
        self.file = tables / "object_ann.json"
        self.problems = problems
        self.categories = _categories(tables, space, problems)
        self.attributes = _attributes(tables, problems)
        self.image: list[int] = []
        self.xywh: list[tuple[float, float, float, float]] = []
        self.category: list[int] = []
        self.token: list[str] = []
        self.extra: list[bytes] = []

    def read(self, row_of: dict[str, int]) -> None:
        seen: set[str] = set()
        for ann in read_table(self.file, _ObjectAnn, self.problems, remedy=_REMEDY):
            if not _unique(ann.token, seen, self.file, self.problems):
                continue
            image = row_of.get(ann.sample_data_token)
            if image is None:
                self._error(ann, f"sample_data_token {ann.sample_data_token!r} is no key frame's")
                continue
            category = self._category(ann)
            if category is None:
                continue
            extra = self._extra(ann)
            if extra is None:
                continue
            x1, y1, x2, y2 = ann.bbox
            self.image.append(image)
            self.xywh.append((x1, y1, x2 - x1, y2 - y1))
            self.category.append(category)
            self.token.append(ann.token)
            self.extra.append(extra)

    def _category(self, ann: _ObjectAnn) -> int | None:
        found = self.categories.get(ann.category_token)
        if found is None:
            self._error(ann, f"category_token {ann.category_token!r} is not in category.json")
        elif isinstance(found, str):
            self._error(ann, f"unknown category {found!r}")
        else:
            return found
        return None

    def _extra(self, ann: _ObjectAnn) -> bytes | None:
        extra: dict[str, Any] = {"token": ann.token}
        if ann.attribute_tokens and self.attributes is not None:
            for token in ann.attribute_tokens:
                if token not in self.attributes:
                    self._error(ann, f"attribute_token {token!r} is not in attribute.json")
                    return None
            extra["attributes"] = {self.attributes[t]: True for t in ann.attribute_tokens}
        try:
            return msgspec.json.encode(extra)
        except ValueError as error:  # half a character, as JSON may escape it
            self._error(ann, f"attributes cannot be kept: {error}")
            return None

    def _error(self, ann: _ObjectAnn, message: str) -> None:
        record = f"token {ann.token}"
        self.problems.error(message, file=self.file, record=record, remedy=_MIXED)


def _categories(tables: Path, space: LabelSpace, problems: Problems) -> dict[str, int | str]:
    """Category token to position, or to its name where the label space lacks it.

    Names without boxes in nuImages (surfaces, the ego vehicle) are no error in this table.
    """
    file = tables / "category.json"
    table: dict[str, int | str] = {}
    for row in _named(file, problems):
        position = space.get(row.name)
        table[row.token] = row.name if position is None else position
    if not any(isinstance(v, int) for v in table.values()):
        raise DataError(
            f"names no category of label space {space.name!r}",
            file=file,
            remedy=did_you_mean(str(next(iter(table.values()), "")), space.names),
        )
    return table


def _attributes(tables: Path, problems: Problems) -> dict[str, str] | None:
    """Attribute token to name; None where the optional table is absent."""
    file = tables / "attribute.json"
    return {row.token: row.name for row in _named(file, problems)} if file.exists() else None


def _named(file: Path, problems: Problems) -> Iterator[_Named]:
    seen: set[str] = set()
    for row in read_table(file, _Named, problems, remedy=_REMEDY):
        if _unique(row.token, seen, file, problems):
            yield row
