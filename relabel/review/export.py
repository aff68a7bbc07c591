"""The decisions that a FiftyOne dataset holds, made into the file that `align --review` takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.decisions import ADD, HUMAN, REJECT, RELABEL, RESHAPE, Before
from relabel.errors import ConfigError, DataError
from relabel.review import edits
from relabel.review.decisions import (
    REJECTED_FIELD,
    Box,
    Decision,
    Origin,
    ReviewedImage,
    ReviewedLabel,
    read_decisions,
    write_decisions,
)
from relabel.review.edits import attribute_of

_DECIMALS = 3  # of pixels, as align writes them
_SAME_PIXELS = 0.01


def export_decisions(
    dataset: Any,
    file: Path,
    root: Path,
    loaded: Mapping[str, DetectionDataset] | None = None,
    now: datetime | None = None,
) -> tuple[list[Decision], Path | None]:
    """Write what was decided in a FiftyOne dataset, and every label with who decided it.

    Labels that were changed, moved or deleted with FiftyOne's own tools are decisions, too, where
    it is known what was loaded; labels drawn by hand are in any case. An earlier file with
    decisions that this one does not have is kept beside it, numbered.

    Args:
        file: where to; inside no result, which the next run empties.
        root: the result's folder.
        loaded: by source, the labels that were loaded.
        now: when labels were changed of which nothing tells when.

    Returns:
        The decisions, and the earlier file that was kept.

    Raises:
        ConfigError: the dataset holds no result of align.
    """
    if not edits.is_reviewable(dataset):
        raise ConfigError(
            f"FiftyOne dataset {dataset.name!r} holds no transferred labels",
            remedy="Load the run with `relabel view RUN`.",
        )
    new = file.with_name(f".{file.name}.new")
    mark = dataset.info[edits.INFO_KEY]
    try:
        at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
        images = _images(dataset, mark["sources"], loaded or {}, at)
        decided = write_decisions(new, images, mark["categories"], root)
        kept = _kept_beside(file, decided)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    edits.mark_exported(dataset)
    return decided, kept


def _kept_beside(file: Path, decided: list[Decision]) -> Path | None:
    """Move an earlier file out of the way if it has decisions that are not among the new ones."""
    if not file.exists():
        return None
    try:
        earlier = read_decisions(file).decisions
    except DataError:
        earlier = None  # of another kind: kept, too
    known = {(one.dataset, one.file_name, one.decided_at) for one in decided}
    if earlier is not None and all(
        (one.dataset, one.file_name, one.decided_at) in known for one in earlier
    ):
        return None
    number = 1
    while (beside := file.with_name(f"{file.stem}.{number}{file.suffix}")).exists():
        number += 1
    file.rename(beside)
    return beside


def _images(
    dataset: Any, sources: Sequence[str], loaded: Mapping[str, DetectionDataset], now: str
) -> Iterator[ReviewedImage]:
    given = {name: _Loaded(data) for name, data in loaded.items()}
    for sample in dataset.iter_samples():
        source = next((name for name in sources if name in sample.tags), None)
        if source is None:
            raise ConfigError(
                f"an image has lost the tag of its source: {sample.filepath}",
                remedy=f"Tag it in FiftyOne with one of {', '.join(sources)}.",
            )
        size = (sample.metadata.width, sample.metadata.height)
        yield _Image(source, sample, size, given.get(source), now).reviewed()


class _Loaded:
    """The labels of a source as they were loaded."""

    def __init__(self, data: DetectionDataset) -> None:
        self.data = data
        self.row_of = {int(id): row for row, id in enumerate(data.boxes.id)}
        self.image_of = {name: row for row, name in enumerate(data.images.file_name)}

    def label(self, id: int) -> Before | None:
        """The label of an id."""
        row = self.row_of.get(id)
        if row is None:
            return None
        boxes = self.data.boxes
        score = float(boxes.score[row])
        origin = None if boxes.provenance is None else boxes.provenance.origin[row]
        return Before(
            self.data.space.names[boxes.category[row]],
            _rounded(boxes.xywh[row].tolist()),
            None if score != score else round(score, 6),
            origin,
        )


class _Image:
    """One sample, on its way into a `ReviewedImage`."""

    def __init__(
        self,
        source: str,
        sample: Any,
        size: tuple[int, int],
        loaded: _Loaded | None,
        now: str,
    ) -> None:
        self.source, self.sample, self.size = source, sample, size
        self.loaded, self.now = loaded, now
        self.file_name = sample["file_name"]
        self.annotations = {one["annotation_id"]: one for one in self._labels("source")}

    def reviewed(self) -> ReviewedImage:
        """Labels and rejections; a label that is in neither field was deleted by hand."""
        labels = [self._label(one) for one in self._labels(edits.TRANSFERRED)]
        rejected = [self._decision(one, REJECT) for one in self._labels(REJECTED_FIELD)]
        return ReviewedImage(
            self.source,
            self.file_name,
            *self.size,
            labels,
            [*rejected, *self._deleted()],
        )

    def _labels(self, field: str) -> list[Any]:
        found = self.sample[field] if self.sample.has_field(field) else None
        return [] if found is None else list(found.detections)

    def _label(self, one: Any) -> ReviewedLabel:
        decision = None
        if attribute_of(one, "decided_by") == HUMAN:
            decision = self._decision(one, one["decision"])
        else:
            verdict, before = self._by_hand(one)
            if verdict is not None:
                decision = self._decision(one, verdict, before)
        return ReviewedLabel(
            one.label,
            self._box(one.bounding_box),
            one.confidence,
            bool(attribute_of(one, "ignore")),
            self._origin(one),
            decision,
        )

    def _by_hand(self, one: Any) -> tuple[Any, Before | None]:
        """What was done to a label with FiftyOne's own tools: (verdict or None, before)."""
        id = attribute_of(one, "annotation_id")
        if id is None:
            return ADD, None
        before = None if self.loaded is None else self.loaded.label(id)
        if before is None:
            return None, None
        if before.category != one.label:
            return RELABEL, before
        box = self._box(one.bounding_box)
        moved = max(abs(a - b) for a, b in zip(box, before.bbox, strict=True))
        return (RESHAPE, before) if moved > _SAME_PIXELS else (None, None)

    def _deleted(self) -> list[Decision]:
        """Labels that were loaded and are in no field any more."""
        if self.loaded is None or self.file_name not in self.loaded.image_of:
            return []
        left = {
            attribute_of(one, "annotation_id")
            for field in (edits.TRANSFERRED, REJECTED_FIELD)
            for one in self._labels(field)
        }
        boxes = self.loaded.data.boxes
        found = []
        for row in self.loaded.data.objects(self.loaded.image_of[self.file_name]).tolist():
            id = int(boxes.id[row])
            before = self.loaded.label(id)
            if id not in left and before is not None:
                origin = Origin(source_dataset=self.source, origin=before.origin)
                if boxes.provenance is not None and boxes.provenance.source_id[row] >= 0:
                    origin = self._origin_of(
                        int(boxes.provenance.source_id[row]),
                        str(boxes.provenance.source_category[row]),
                        before.origin,
                    )
                found.append(
                    Decision(
                        self.source,
                        self.file_name,
                        REJECT,
                        before.category,
                        before.bbox,
                        self.now,
                        before,
                        origin,
                    )
                )
        return found

    def _decision(self, one: Any, verdict: Any, before: Before | None = None) -> Decision:
        text = attribute_of(one, "before")
        return Decision(
            self.source,
            self.file_name,
            verdict,
            one.label,
            self._box(one.bounding_box),
            attribute_of(one, "decided_at") or self.now,
            before if text is None else self._before(text),
            self._origin(one),
        )

    def _before(self, text: str) -> Before | None:
        try:
            found = msgspec.convert(json.loads(text), dict)
            if "box" in found:
                found["bbox"] = self._box(found.pop("box"))
            return msgspec.convert(found, Before)
        except (ValueError, TypeError, msgspec.ValidationError):  # somebody wrote into it
            return None

    def _origin(self, one: Any) -> Origin:
        return self._origin_of(
            attribute_of(one, "source_id"),
            attribute_of(one, "source_category"),
            attribute_of(one, "origin"),
        )

    def _origin_of(self, id: int | None, category: str | None, origin: str | None) -> Origin:
        annotation = self.annotations.get(id)
        box = None if annotation is None else self._box(annotation.bounding_box)
        return Origin(self.source, id, category or None, origin, box)

    def _box(self, relative: Sequence[float]) -> Box:
        width, height = self.size
        x, y, w, h = relative
        return _rounded([x * width, y * height, w * width, h * height])


def _rounded(box: Sequence[float]) -> Box:
    x, y, w, h = (round(v, _DECIMALS) for v in box)
    return x, y, w, h
