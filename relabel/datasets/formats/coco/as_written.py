"""COCO files exactly as written, for measuring.

The dataset reader clips boxes to their image, drops empty ones and rounds scores to float32. Any of
that would change AP, so here nothing is clipped or dropped, scores are float64, and boxes stand in
file order within their image (it decides between equal scores). ``iscrowd`` alone marks regions to
leave out, as in pycocotools.

Shape legend: ``I`` images, ``n`` boxes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from relabel.datasets.dataset import Boxes, DetectionDataset, Images, Provenance
from relabel.datasets.federated import federated_columns
from relabel.datasets.formats.box_checks import real_boxes
from relabel.datasets.formats.coco.columns import AnnotationColumns
from relabel.datasets.formats.coco.decode import decode, decode_results, unwrapped
from relabel.datasets.formats.coco.origins import provenance_of
from relabel.datasets.formats.coco.read import CATEGORY_FIELDS, first_of_each, label_space, located
from relabel.datasets.formats.records import collector_paused
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from relabel.files.opening import read_bytes

CocoSource = Path | str | Mapping[str, Any]
"""A COCO file's path, or its content."""


_RESULT = (
    "A result has image_id, category_id, bbox and score; labels without scores go to "
    "`relabel evaluate transfer`."
)
_MOST_LISTED = 30


class Strict(Problems):
    """Where nothing is skipped, no remedy says how to skip."""

    def error(
        self, message: str, *, file: str | Path, record: str = "", remedy: str | None = None
    ) -> None:
        remedy = re.sub(r",? or (leave it out with|use) --skip-bad", "", remedy or "")
        super().error(message, file=file, record=record, remedy=remedy or None)


def read_as_written(source: CocoSource, problems: Strict | None = None) -> DetectionDataset:
    """A COCO file, images in the order of their ids.

    Images need no size and no ``file_name``, which is "" then. Categories of one name are
    distinguished by their ids. ``relabel`` objects are kept as provenance, and what makes the file
    federated (`relabel.datasets.federated`); no other fields are.

    Args:
        problems: receives warnings.

    Raises:
        DataError: missing, empty or truncated file, wrong types or shapes, values that are not
            finite, negative sizes, duplicate ids, annotations of absent images or categories.
    """
    return _dataset(*_content(source, "the annotations given"), problems or Strict())


def read_results(
    source: CocoSource | Sequence[Mapping[str, Any]],
    truth: DetectionDataset,
    problems: Strict | None = None,
) -> DetectionDataset:
    """A COCO results list, or a COCO file whose annotations may carry ``score``.

    A results list is in the truth's image and category ids, so it comes back with the truth's
    images and label space. A COCO file comes back with its own. The list may be wrapped in an
    object, as ``{"predictions": [...]}``.

    Args:
        problems: receives warnings.

    Raises:
        DataError: as `read_as_written`; a result without a score; ids the truth does not have.
    """
    file, data = _content(source, "the predictions given")
    problems = problems or Strict()
    rows = unwrapped(data)
    if rows is None:
        return _dataset(file, data, problems)
    with collector_paused():
        results = decode_results(file, problems, rows, lambda row: _image_meant(row, truth))
        results.id = np.arange(1, len(results.id) + 1)
        results.numbered = np.ones(len(results.id), bool)
        bad = np.flatnonzero(~np.isfinite(results.score))
        if len(bad):
            raise DataError(
                "needs a finite `score`", file=file, record=f"results[{bad[0]}]", remedy=_RESULT
            )
        boxes = _boxes(results, truth.images.id, truth.space.ids, file, problems, truth=truth)
    return DetectionDataset(file, truth.space, truth.images, boxes, truth.root)


def _content(source: Any, name: str) -> tuple[str, bytearray]:
    if isinstance(source, str | Path):
        return str(source), read_bytes(Path(source))
    try:
        return name, bytearray(msgspec.json.encode(source, enc_hook=_plain))
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"cannot be used: {error}", file=name) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def _dataset(file: str, data: bytearray, problems: Strict) -> DetectionDataset:
    with collector_paused():
        decoded = decode(file, problems, data)
        space, fields = _label_space(decoded.categories, file, problems)
        columns = decoded.images
        first_of_each(columns.id, "image", file, problems)
        names = [name or "" for name in columns.file_name]
        extra = columns.extra
        federated = federated_columns(extra) is not None
        images = Images(
            columns.id, names, columns.width, columns.height, extra=extra if federated else None
        )
        images = images.take(np.argsort(columns.id, kind="stable"))
        boxes = _boxes(
            decoded.annotations, images.id, space.ids, file, problems, federated=federated
        )
    info = {CATEGORY_FIELDS: fields} if fields else {}
    return DetectionDataset(file, space, images, boxes, Path(file).parent, info)


def _label_space(
    rows: list[dict[str, Any]], file: str, problems: Problems
) -> tuple[LabelSpace, dict[str, dict[str, Any]]]:
    """Categories in file order, none of them ``ignore``."""
    named = []
    times = Counter(str(row.get("name")) for row in rows)
    for row in rows:
        id, name = row.get("id"), row.get("name")
        if name is None:
            name = str(id)
        elif times[str(name)] > 1:
            name = f"{name} (id {id})"
        named.append({"id": id, "name": name} | {k: row[k] for k in ("frequency",) if k in row})
    return label_space(named, file, file, problems)


def _boxes(
    columns: AnnotationColumns,
    image_ids: np.ndarray,
    category_ids: np.ndarray,
    file: str,
    problems: Strict,
    *,
    truth: DetectionDataset | None = None,
    federated: bool = False,
) -> Boxes:
    """Boxes of a file, or of a list of results in the ids of ``truth``."""

    def by_place(row: int) -> str:
        return f"results[{row}]"

    record_of = None if truth is None else by_place
    ids, _, image, category = located(
        columns,
        image_ids,
        category_ids,
        file,
        problems,
        record_of=record_of,
        owner="the file" if truth is None else truth.name,
        remedies=None if truth is None else lambda row: _remedies(columns, row, truth),
    )
    if federated and columns.crowd.any():
        problems.warning(
            f"{int(columns.crowd.sum())} crowd regions count as objects, as in lvis-api", file=file
        )
    real_boxes(columns.xywh, problems, file, record_of or (lambda row: f"annotation {ids[row]}"))
    xywh = columns.xywh
    boxes = Boxes(
        image=image.astype(np.int32),
        xywh=xywh,
        category=category.astype(np.int32),
        score=columns.score,
        ignore=columns.ignore if federated else columns.crowd,
        id=ids,
        area=np.where(np.isnan(columns.area), xywh[:, 2] * xywh[:, 3], columns.area),
        provenance=_provenance(columns, file),
    )
    if bool(np.any(image[1:] < image[:-1])):
        boxes = boxes.take(np.argsort(image, kind="stable"))
    return boxes


def _remedies(columns: AnnotationColumns, row: int, truth: DetectionDataset) -> tuple[str, str]:
    """What to do about a result whose image, or category, the truth does not have."""
    extra = columns.extra[row] if columns.extra is not None else None
    image = _image_meant(msgspec.json.decode(extra), truth) if extra else None
    image = image or "A result names its image by the id that the truth file gives it."
    known = [f"{c.id} ({c.name})" for c in truth.space.categories[:_MOST_LISTED]]
    more = ", ..." if len(truth.space) > _MOST_LISTED else ""
    return image, f"Known: {', '.join(known) or 'none'}{more}."


def _image_meant(row: dict[str, Any], truth: DetectionDataset) -> str | None:
    """What to write where a result names its image by a file name, or the stem of one."""
    names = [v for v in (row.get("file_name"), row.get("image_id")) if isinstance(v, str) and v]
    for place, known in enumerate(truth.images.file_name):
        base = known.rpartition("/")[2]
        for name in names:
            if name in (known, base, base.rpartition(".")[0]):
                return f"{name!r} is image id {truth.images.id[place]} there: write that number."
    return None


def _provenance(columns: AnnotationColumns, file: str) -> Provenance | None:
    """What the ``relabel`` objects say; None where there are none."""
    if columns.extra is None or "relabel" not in columns.extra.names:
        return None
    return provenance_of(columns.extra.columns[columns.extra.names.index("relabel")], file)
