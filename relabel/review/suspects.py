"""What `relabel check RUN` found, in the FiftyOne dataset of that run.

The suspects become a label field, each with the box that is proposed, and attributes of the labels
that they accuse. No label is changed or moved, so decisions stay. FiftyOne is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relabel.datasets.dataset import DetectionDataset
from relabel.errors import ConfigError, DataError, Problems
from relabel.files.json_text import decode_json
from relabel.files.opening import read_bytes
from relabel.review.decisions import REJECTED_FIELD
from relabel.review.edits import INFO_KEY, TRANSFERRED, is_reviewable
from relabel.workspace.fingerprint import file_fingerprint
from relabel.workspace.progress import message

SUSPECTS_FIELD = "suspects"
_FILE, _MERGED = "suspects.json", "merged.json"
_MARK = "suspects"  # in the dataset's info
_BATCH = 1000  # samples
# Attributes of accused labels, by what they are of a suspect.
_OF_LABELS = {
    "kind": "suspect",
    "score": "suspect_score",
    "proposal": "suspect_proposal",
    "reason": "suspect_reason",
}
Box = tuple[float, float, float, float]


class Suspect(msgspec.Struct):
    """An entry of ``suspects`` in suspects.json; boxes are x, y, width, height in pixels."""

    rank: int
    score: float
    kind: str
    file_name: str
    annotation_id: int | None
    category: str | None
    bbox: Box | None
    proposed_category: str | None
    proposed_bbox: Box | None
    proposal: str
    reason: str


class _File(msgspec.Struct):
    suspects: list[Suspect]
    merged: str | None = None


@dataclass(frozen=True)
class RunCheck:
    """A check of a run as it stands.

    Attributes:
        file: suspects.json.
        fingerprint: of that file.
        merged: the run's training file, whose images and annotations are meant.
        suspects: the surest first.
    """

    file: Path
    fingerprint: str
    merged: Path
    suspects: list[Suspect]


def find_check(result: Path, given: Path | None) -> RunCheck | None:
    """The check of a run: the one given, else that of ``runs/check/NAME``, where check puts it.

    What lies there by itself is used where it is of this result, passed over where it is of a
    dataset, and told of where it is of an earlier result.

    Args:
        result: what is shown: a run, its ``result``, or the folder of one of its sources.
        given: the folder that `relabel check` wrote, or its suspects.json.

    Raises:
        ConfigError: what was given is not of this result.
        DataError: it does not exist, or is damaged.
    """
    places = (result, result / "result", result.parent) if result.is_dir() else ()
    merged = next((p / _MERGED for p in places if (p / _MERGED).is_file()), None)
    if merged is None:
        if given is None:
            return None
        raise ConfigError(
            "--suspects is for the run of align that was checked",
            file=result,
            remedy=f"Show the check by itself: relabel view {given}",
        )
    run = merged.resolve().parent.parent
    place = Path("runs") / "check" / run.name if given is None else given
    file = place / _FILE if place.is_dir() or given is None else place
    if given is None and not file.is_file():
        return None
    found = decode_json(read_bytes(file), file, _File)
    if found.merged is None:
        if given is None:
            return None
        raise ConfigError(
            "is the check of a dataset, not of a run of align",
            file=file,
            remedy=f"Show it by itself: relabel view {place}",
        )
    if found.merged != file_fingerprint(merged):
        text = "is of another result than this one, or of an earlier one"
        remedy = f"Check it again: relabel check {run} --out {file.parent} --overwrite"
        if given is not None:
            raise ConfigError(text, file=file, remedy=remedy)
        message(f"warning: {file} {text}, and is not shown. {remedy}")
        return None
    return RunCheck(file, file_fingerprint(file), merged, found.suspects)


def add_suspects(
    fo: Any, dataset: Any, check: RunCheck, loaded: Mapping[str, DetectionDataset]
) -> bool:
    """Put suspects into the FiftyOne dataset of their run, in place of earlier ones.

    Suspects on images that the dataset does not have, such as the target's own, are left out and
    counted.

    Args:
        fo: the fiftyone module.
        loaded: the labels that the dataset was loaded with, by source.

    Returns:
        Whether anything had to be done; it is done again until `mark_suspects`.

    Raises:
        DataError: the training file and the sources' labels do not belong together.
    """
    if not is_reviewable(dataset) or dataset.info[INFO_KEY].get(_MARK) == check.fingerprint:
        return False
    own_ids = _own_ids(check.merged, loaded)
    of_image: dict[tuple[str, str], list[Suspect]] = {}
    left_out = 0
    for suspect in check.suspects:
        _, source, name = [*suspect.file_name.split("/", 2), "", ""][:3]
        if source in loaded:
            of_image.setdefault((source, name), []).append(suspect)
        else:
            left_out += 1
    _declare(fo, dataset)
    accused: dict[str, dict[int, Suspect]] = {}  # by sample and the label's id
    ids, names, tags = dataset.values(["id", "file_name", "tags"])
    found = []
    for id, name, of_sample in zip(ids, names, tags, strict=True):
        source = next((s for s in loaded if s in of_sample), "")
        mine = of_image.get((source, name), [])
        found.append([(s, own_ids.get(s.annotation_id)) for s in mine])
        accused[id] = {own: s for s, own in found[-1] if own is not None}
    for start in range(0, len(ids), _BATCH):
        batch = dataset.select(ids[start : start + _BATCH], ordered=True)
        widths, heights = batch.values(["metadata.width", "metadata.height"])
        rows = zip(found[start : start + _BATCH], widths, heights, strict=True)
        values = [
            fo.Detections(detections=[_detection(fo, s, own, w, h) for s, own in mine])
            for mine, w, h in rows
        ]
        batch.set_values(SUSPECTS_FIELD, values)
    for field in (TRANSFERRED, REJECTED_FIELD):
        _tell_labels(dataset, field, accused)
    shown = len(check.suspects) - left_out
    more = f"; {left_out:,} are on images of the target, which are not shown" if left_out else ""
    message(f"suspects of {check.file}: {shown:,}{more}")
    return True


def mark_suspects(dataset: Any, check: RunCheck) -> None:
    """Note whose suspects a FiftyOne dataset has, once all is there."""
    mark = {**dataset.info[INFO_KEY], _MARK: check.fingerprint}
    dataset.info = {**dataset.info, INFO_KEY: mark}
    dataset.save()


def _own_ids(merged: Path, loaded: Mapping[str, DetectionDataset]) -> dict[int | None, int]:
    """The id that an annotation of the training file has in its source.

    That file holds every image's labels in the same order, and counts them anew.
    """
    from relabel.datasets.formats.coco import read as coco

    data = coco.read(merged, name="merged", split=None, problems=Problems(skip_bad=True))
    found: dict[int | None, int] = {}
    row_of = {name: row for row, name in enumerate(data.images.file_name)}
    for source, own in loaded.items():
        for k, name in enumerate(own.images.file_name):
            row = row_of.get(f"images/{source}/{name}")
            if row is None:
                continue
            there, here = data.rows(row), own.rows(k)
            names = (
                [data.space.names[c] for c in data.boxes.category[there]],
                [own.space.names[c] for c in own.boxes.category[here]],
            )
            if names[0] != names[1]:
                raise DataError(
                    "does not have the labels of the result beside it",
                    file=merged,
                    record=f"image {name!r} of {source}",
                    remedy="Write the result again with `relabel align --overwrite`.",
                )
            ids = (data.boxes.id[there].tolist(), own.boxes.id[here].tolist())
            found.update(zip(*ids, strict=True))
    return found


def _declare(fo: Any, dataset: Any) -> None:
    """Fields for what is added, where the dataset lacks them."""
    if not dataset.has_sample_field(SUSPECTS_FIELD):
        dataset.add_sample_field(
            SUSPECTS_FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections
        )
    kinds = dict.fromkeys(("kind", "reason", "proposal", "annotated_class"), fo.StringField)
    wanted = {
        SUSPECTS_FIELD: kinds | {"rank": fo.IntField, "annotation_id": fo.IntField},
        TRANSFERRED: dict.fromkeys(_OF_LABELS.values(), fo.StringField),
    }
    wanted[TRANSFERRED] |= {"suspect_score": fo.FloatField}
    wanted[REJECTED_FIELD] = wanted[TRANSFERRED] | {"annotation_id": fo.IntField}
    schema = dataset.get_field_schema(flat=True)
    for field, attributes in wanted.items():
        for name, kind in attributes.items():
            path = f"{field}.detections.{name}"
            if field in schema and path not in schema:
                dataset.add_sample_field(path, kind)


def _detection(fo: Any, suspect: Suspect, own: int | None, width: int, height: int) -> Any:
    """The proposed box, else that of the label as it is."""
    x, y, w, h = suspect.proposed_bbox or suspect.bbox or (0.0, 0.0, 0.0, 0.0)
    return fo.Detection(
        label=suspect.proposed_category or suspect.category,
        bounding_box=[x / width, y / height, w / width, h / height],
        confidence=suspect.score,
        kind=suspect.kind,
        rank=suspect.rank,
        reason=suspect.reason,
        proposal=suspect.proposal,
        annotated_class=suspect.category,
        annotation_id=own,
    )


def _tell_labels(dataset: Any, field: str, accused: Mapping[str, Mapping[int, Suspect]]) -> None:
    """Set the attributes of a field's labels; those that are not accused have none."""
    if not dataset.has_sample_field(field):
        return
    place = f"{field}.detections"
    columns = dataset.values(["id", f"{place}.id", f"{place}.annotation_id", f"{place}.suspect"])
    now: list[tuple[str, str, Suspect | None]] = []
    for sample, labels, own, before in zip(*columns, strict=True):
        of_sample = accused[sample]
        for label, id, had in zip(labels or [], own or [], before or [], strict=True):
            if id in of_sample or had is not None:
                now.append((sample, label, of_sample.get(id)))
    for name, attribute in _OF_LABELS.items():
        values = [
            {"sample_id": sample, "label_id": label, "value": s and getattr(s, name)}
            for sample, label, s in now
        ]
        dataset.set_label_values(f"{place}.{attribute}", values)
