"""The file of decisions: COCO, and beside its annotations those that were rejected.

``annotations`` are all labels as they stand after the review, each with ``decided_by`` (``human``
or ``model``); those of a human have ``decision``, ``decided_at`` and ``before``, see
`relabel.datasets.decisions`. ``rejected`` has the labels that were turned down, in the same form.
Images have the name of their ``dataset``. Any reader of COCO files takes it as the reviewed labels;
`relabel align --review` takes what a human decided.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relabel import __version__
from relabel.datasets.decisions import ACCEPT, HUMAN, REJECT, Before, Verdict
from relabel.errors import DataError
from relabel.files.json_text import decode_json
from relabel.files.opening import read_bytes
from relabel.workspace.atomic import atomic_write_bytes

DECISIONS_FILE = "decisions.json"
REJECTED_FIELD = "rejected"
"""FiftyOne's field of labels that were turned down."""
KIND = "decisions"
_Side = Annotated[float, Meta(ge=0)]
Box = tuple[float, float, _Side, _Side]
_IMAGES = "images"
_REMEDY = "Give the file that `relabel review export` wrote."


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a label comes from, as in the files of `relabel align`.

    Attributes:
        source_bbox: the annotation's box, xywh, by which it is known again.
    """

    source_dataset: str | None = None
    source_annotation_id: int | None = None
    source_category: str | None = None
    origin: str | None = None
    source_bbox: Box | None = None


UNKNOWN = Origin()


class _Category(msgspec.Struct):
    id: int
    name: str


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: int
    height: int
    dataset: str


class _Annotation(msgspec.Struct, omit_defaults=True):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    decided_by: Literal["human", "model"]
    area: float | None = None
    iscrowd: int | None = None
    score: float | None = None
    decision: Verdict | None = None
    decided_at: str | None = None
    before: Before | None = None
    relabel: Origin = UNKNOWN


class _Relabel(msgspec.Struct):
    version: str
    kind: str
    root: str


class _Info(msgspec.Struct):
    description: str
    relabel: _Relabel


class _File(msgspec.Struct):
    info: _Info
    categories: list[_Category]
    images: list[_Image]
    annotations: list[_Annotation]
    rejected: list[_Annotation]


class _Kind(msgspec.Struct):
    kind: str = ""


class _KindOfInfo(msgspec.Struct):
    relabel: _Kind = msgspec.field(default_factory=_Kind)


class _AnyFile(msgspec.Struct):
    info: _KindOfInfo = msgspec.field(default_factory=_KindOfInfo)


@dataclass(frozen=True)
class Decision:
    """What somebody decided about one label.

    Attributes:
        dataset, file_name: the image, by the names of the source.
        verdict: one of `relabel.datasets.decisions.DECISIONS`.
        category, bbox: the label as decided, by class name and xywh in pixels; of a rejected one as
            it was.
        decided_at: ISO 8601.
        before: as the model gave it; None for one that was added by hand.
        origin: what it comes from.
    """

    dataset: str
    file_name: str
    verdict: Verdict
    category: str
    bbox: Box
    decided_at: str
    before: Before | None = None
    origin: Origin = UNKNOWN

    def __str__(self) -> str:
        x, y, w, h = (f"{v:g}" for v in self.bbox)
        return f"{self.verdict} {self.category!r} at ({x}, {y}, {w}, {h}) in {self.file_name}"


@dataclass(frozen=True)
class Review:
    """What a file of decisions says.

    Attributes:
        decisions: of a human.
        left: the other labels of the images that a decision is about, which somebody saw and left
            as they were. They tell which label of a later run a decision is not about.
    """

    decisions: list[Decision]
    left: list[Decision]


@dataclass(frozen=True)
class ReviewedLabel:
    """A label as it stands after a review.

    Attributes:
        decision: None for one that is as the model gave it.
    """

    category: str
    bbox: Box
    score: float | None
    ignore: bool
    origin: Origin
    decision: Decision | None = None


@dataclass(frozen=True)
class ReviewedImage:
    """One image: its labels, and the decisions against labels that it no longer has."""

    dataset: str
    file_name: str
    width: int
    height: int
    labels: Sequence[ReviewedLabel]
    rejected: Sequence[Decision]


def write_decisions(
    file: Path, images: Iterable[ReviewedImage], categories: dict[str, int], root: Path
) -> list[Decision]:
    """Write a reviewed result.

    Args:
        categories: ids of the target's classes by name; classes that a human made up are added.
        root: the result's folder, which has ``images/DATASET/FILE``.

    Returns:
        The decisions in it.
    """
    categories = dict(categories)
    decided: list[Decision] = []
    content = _File(
        _Info(
            "labels after a review: who decided each, when, and what it was before",
            _Relabel(__version__, KIND, Path(os.path.relpath(root, file.parent)).as_posix()),
        ),
        [],
        [],
        [],
        [],
    )

    def category_id(name: str) -> int:
        return categories.setdefault(name, max(categories.values(), default=0) + 1)

    for image in images:
        number = len(content.images) + 1
        name = f"{_IMAGES}/{image.dataset}/{image.file_name}"
        content.images.append(_Image(number, name, image.width, image.height, image.dataset))
        for label in image.labels:
            made = _Annotation(
                len(content.annotations) + 1,
                number,
                category_id(label.category),
                label.bbox,
                "model",
                round(label.bbox[2] * label.bbox[3], 3),
                int(label.ignore),
                label.score,
                relabel=label.origin,
            )
            if label.decision is not None:
                decided.append(label.decision)
                _decide(made, label.decision)
            content.annotations.append(made)
        for one in image.rejected:
            number_of = len(content.rejected) + 1
            of_class = category_id(one.category)
            made = _Annotation(number_of, number, of_class, one.bbox, "human", relabel=one.origin)
            decided.append(one)
            _decide(made, one)
            content.rejected.append(made)
    content.categories = [_Category(id, name) for name, id in categories.items()]
    atomic_write_bytes(file, msgspec.json.encode(content) + b"\n")
    return decided


def _decide(made: _Annotation, decision: Decision) -> None:
    made.decided_by = HUMAN
    made.decision = decision.verdict
    made.decided_at = decision.decided_at
    made.before = decision.before


def read_decisions(file: Path) -> Review:
    """What a human decided, of a file of `write_decisions`.

    Raises:
        DataError: the file is missing, damaged, or of another kind; a decision that names an image
            or class which the file does not have, or is not complete.
    """
    data = read_bytes(file, remedy=_REMEDY)
    if decode_json(data, file, _AnyFile).info.relabel.kind != KIND:
        raise DataError("is no file of decisions", file=file, remedy=_REMEDY)
    content = decode_json(data, file, _File)
    images = {image.id: image for image in content.images}
    names = {category.id: category.name for category in content.categories}
    seen = {
        one.image_id for one in (*content.annotations, *content.rejected) if one.decided_by == HUMAN
    }
    found = Review([], [])
    for record, several in (("annotation", content.annotations), ("rejected", content.rejected)):
        for one in several:
            if one.image_id not in seen or (one.decided_by != HUMAN and one.iscrowd):
                continue
            which = f"{record} {one.id}"
            image = images.get(one.image_id)
            if image is None or one.category_id not in names:
                what = "an image" if image is None else "a class"
                raise DataError(f"names {what} that the file lacks", file=file, record=which)
            if one.decided_by != HUMAN:
                found.left.append(_decision(one, ACCEPT, image, names))
                continue
            if one.decision is None or one.decided_at is None:
                raise DataError(
                    "is decided by a human and has no decision or no decided_at",
                    file=file,
                    record=which,
                    remedy=_REMEDY,
                )
            if (one.decision == REJECT) != (several is content.rejected):
                raise DataError(
                    f"its decision is {one.decision!r}", file=file, record=which, remedy=_REMEDY
                )
            found.decisions.append(_decision(one, one.decision, image, names))
    return found


def _decision(one: _Annotation, verdict: Verdict, image: _Image, names: dict[int, str]) -> Decision:
    return Decision(
        image.dataset,
        image.file_name.removeprefix(f"{_IMAGES}/{image.dataset}/"),
        verdict,
        names[one.category_id],
        one.bbox,
        one.decided_at or "",
        one.before,
        one.relabel,
    )
