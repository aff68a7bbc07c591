"""Accept, reject, relabel, restore and undo in a FiftyOne dataset that holds a result.

The label field ``transferred`` is always the reviewed result: a rejected label moves to
``rejected``, a restored one comes back from there or from ``removed``. Each decided label carries
who decided, what, when, and what it was before (`relabel.datasets.decisions`), and the steps that
led there, so that the last step can be undone over any number of labels.

FiftyOne is handed in, never imported: the functions run in the App's server and in notebooks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relabel.datasets.decisions import (
    ACCEPT,
    DECIDED_FIELDS,
    HUMAN,
    REJECT,
    RELABEL,
    RESTORE,
    Verdict,
)
from relabel.errors import ConfigError
from relabel.review.decisions import REJECTED_FIELD

INFO_KEY = "relabel"
"""Key of the FiftyOne dataset's ``info`` that marks it as loaded by relabel."""

TRANSFERRED, REMOVED = "transferred", "removed"
FIELDS = (TRANSFERRED, REJECTED_FIELD, REMOVED)
STEP, STEPS = "review_step", "review_steps"
_ORIGIN = ("origin", "source_dataset", "source_category", "source_id", "source_iou")
_CHANGED = ("label", "annotation_id", *_ORIGIN, *DECIDED_FIELDS)
_BATCH = 500  # samples
_LOG = 50

Selection = Mapping[str, Mapping[str, Collection[str]]]
"""Ids of labels by field and sample id."""


@dataclass(frozen=True)
class Done:
    """What a step did.

    Attributes:
        number: of the step, from 1; 0 where nothing was done.
        verdict: what was decided.
        count: labels that it changed.
        passed_over: labels of the selection that it does not apply to.
    """

    number: int
    verdict: str
    count: int
    passed_over: int


def prepare(fo: Any, dataset: Any) -> None:
    """Give a dataset the fields that a review needs; its labels stay as they are."""
    if not is_reviewable(dataset):
        return
    detections = {"embedded_doc_type": fo.Detections}
    if not dataset.has_sample_field(REJECTED_FIELD):
        dataset.add_sample_field(REJECTED_FIELD, fo.EmbeddedDocumentField, **detections)
    schema = dataset.get_field_schema(flat=True)
    for field in FIELDS:
        if field not in schema:
            continue
        kinds = dict.fromkeys(DECIDED_FIELDS, fo.StringField) | {STEP: fo.IntField}
        if field == REJECTED_FIELD:
            kinds |= {"origin": fo.StringField, "source_category": fo.StringField}
        for name, kind in kinds.items():
            path = f"{field}.detections.{name}"
            if path not in schema:
                dataset.add_sample_field(path, kind)


def is_reviewable(dataset: Any) -> bool:
    """Whether a FiftyOne dataset holds transferred labels that relabel loaded."""
    mark = (dataset.info or {}).get(INFO_KEY)
    return isinstance(mark, dict) and dataset.has_sample_field(TRANSFERRED)


def selected(
    view: Any, labels: Sequence[Mapping[str, Any]] = (), samples: Collection[str] = ()
) -> dict[str, dict[str, set[str]]]:
    """The labels that are meant: those selected, else all in the view, as it filters them.

    Args:
        view: the App's view.
        labels: selected labels, as the App tells them: ``label_id``, ``sample_id``, ``field``.
        samples: ids of selected samples, to which the view is cut.
    """
    found: dict[str, dict[str, set[str]]] = {field: {} for field in FIELDS}
    if labels:
        for one in labels:
            if one["field"] in found:
                of_sample = found[one["field"]].setdefault(str(one["sample_id"]), set())
                of_sample.add(str(one["label_id"]))
        return found
    if samples:
        view = view.select(list(samples))
    for field in FIELDS:
        if view.has_sample_field(field):
            ids, of_sample = view.values(["id", f"{field}.detections.id"])
            found[field] = {id: set(mine) for id, mine in zip(ids, of_sample, strict=True) if mine}
    return found


def count(selection: Selection, fields: Sequence[str] = FIELDS) -> int:
    """How many labels a selection has in some fields."""
    return sum(len(ids) for field in fields for ids in selection.get(field, {}).values())


def applies_to(verdict: Verdict) -> tuple[str, ...]:
    """The fields whose labels a verdict changes."""
    if verdict in (ACCEPT, REJECT):
        return (TRANSFERRED,)
    return (REJECTED_FIELD, REMOVED) if verdict == RESTORE else FIELDS


def decide(
    dataset: Any,
    selection: Selection,
    verdict: Verdict,
    *,
    label: str | None = None,
    now: datetime | None = None,
) -> Done:
    """Take a decision about labels; everything it does is one step of `undo`.

    ``accept`` and ``reject`` are of transferred labels. ``relabel`` gives a class, and brings
    rejected and removed ones back with it. ``restore`` brings a rejected label back as it was, and
    an annotation that the transfer removed as a label of the class given, else of the class that
    the model found most likely, else of its own where the target has one of that name.

    Args:
        selection: see `selected`; labels that the verdict does not apply to are passed over, and
            ignore regions.
        label: a class of the target.
        now: when, by default at this moment.

    Raises:
        ConfigError: no such class, none given to ``relabel``, or none known for an annotation that
            is to be restored.
    """
    classes = classes_of(dataset)
    if verdict == RELABEL and not label:
        raise ConfigError("to relabel takes a class", remedy="Choose one.")
    if label and label not in classes:
        raise ConfigError(f"the target has no class {label!r}", remedy="Choose one of its own.")
    fields = applies_to(verdict)
    total = count(selection)
    mark = dict(dataset.info[INFO_KEY])
    number = int(mark.get("step", 0)) + 1
    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")

    def change(field: str, one: Any) -> str:
        if attribute_of(one, "ignore"):
            return field
        name = label or _class_of(field, one, classes)
        _remember(one, field, number)
        _first_state(one, field)
        one["decided_by"], one["decided_at"] = HUMAN, at
        if field == REMOVED:
            one["source_id"], one["source_category"] = one["annotation_id"], one.label
            one["origin"], one["source_iou"] = "source", 1.0
            one["annotation_id"] = None  # that of the source; a label of the result it is not
        if field != TRANSFERRED and verdict == RESTORE and not label:
            one["decision"] = ACCEPT if field == REJECTED_FIELD else RESTORE
        else:
            one["decision"] = RESTORE if field == REMOVED else verdict
        one.label = name
        return REJECTED_FIELD if verdict == REJECT else TRANSFERRED

    for field in fields:  # refused before anything is written
        if field == REMOVED and not label:
            for one in _labels(dataset, field, selection.get(field, {})):
                _class_of(field, one, classes)
    changed = sum(_move(dataset, field, selection.get(field, {}), change) for field in fields)
    if not changed:
        return Done(0, verdict, 0, total)
    log = [*mark.get("log", []), {"step": number, "what": verdict, "count": changed, "at": at}]
    left = mark.get("unexported", 0) + changed
    _mark(dataset, {**mark, "step": number, "log": log[-_LOG:], "unexported": left})
    return Done(number, verdict, changed, total - changed)


def undo(dataset: Any) -> Done:
    """Take back the last step; returns which it was, number 0 where there is none left."""
    mark = dict(dataset.info[INFO_KEY])
    log = list(mark.get("log", []))
    if not log:
        return Done(0, "", 0, 0)
    last = log.pop()

    def back(field: str, one: Any) -> str:
        steps = list(one[STEPS])
        before = json.loads(steps.pop())
        one[STEPS] = steps
        one[STEP] = before["step"]
        for name in _CHANGED:
            one[name] = before[name]
        return before["field"]

    changed = 0
    for field in FIELDS:
        if dataset.has_sample_field(field):
            mine = _of_step(dataset, field, last["step"])
            changed += _move(dataset, field, mine, back)
    _mark(dataset, {**mark, "log": log, "unexported": mark.get("unexported", 0) + changed})
    return Done(last["step"], last["what"], changed, 0)


def progress(dataset: Any) -> dict[str, int]:
    """How many labels were decided: by verdict, ``decided``, ``labels`` and ``images``."""
    found: Counter[str] = Counter()
    labels = 0
    for field in (TRANSFERRED, REJECTED_FIELD):
        if dataset.has_sample_field(field):
            labels += dataset.count(f"{field}.detections")
            labels -= dataset.count_values(f"{field}.detections.ignore").get(True, 0)
            found.update(dataset.count_values(f"{field}.detections.decision"))
    found.pop(None, None)  # type: ignore[call-overload]
    return {**found, "decided": sum(found.values()), "labels": labels, "images": len(dataset)}


def last_steps(dataset: Any) -> list[dict[str, Any]]:
    """The steps that can be undone, the last first: ``what``, ``count`` and ``at``."""
    return list((dataset.info or {}).get(INFO_KEY, {}).get("log", []))[::-1]


def classes_of(dataset: Any) -> list[str]:
    """The target's classes, in order."""
    return list((dataset.info or {}).get(INFO_KEY, {}).get("categories", {}))


def unexported(dataset: Any) -> int:
    """Labels that were changed since the last export."""
    return int((dataset.info or {}).get(INFO_KEY, {}).get("unexported", 0))


def mark_exported(dataset: Any) -> None:
    """Note that the decisions so far are in a file."""
    _mark(dataset, {**dataset.info[INFO_KEY], "unexported": 0})


def _mark(dataset: Any, mark: dict[str, Any]) -> None:
    dataset.info = {**dataset.info, INFO_KEY: mark}
    dataset.save()


def _class_of(field: str, one: Any, classes: Sequence[str]) -> str:
    """The class that a label has or, of a removed annotation, would have."""
    if field != REMOVED:
        return one.label
    for name in (attribute_of(one, "best_class"), one.label):
        if name in classes:
            return name
    raise ConfigError(
        f"no class of the target is known for {one.label!r}",
        remedy="Give one, such as with Relabel.",
    )


def _first_state(one: Any, field: str) -> None:
    """What the model gave stays as it was, through all decisions about it."""
    if attribute_of(one, "decided_by") is not None and attribute_of(one, "before") is not None:
        return
    # In fractions of the image, as here; an export tells pixels.
    before = {"category": one.label, "box": list(one.bounding_box)}
    if field != REMOVED:
        before |= {"score": one.confidence, "origin": attribute_of(one, "origin")}
    one["before"] = json.dumps(before)


def _remember(one: Any, field: str, number: int) -> None:
    state = {"field": field, "step": attribute_of(one, STEP)}
    state |= {name: attribute_of(one, name) for name in _CHANGED}
    one[STEPS] = [*(attribute_of(one, STEPS) or []), json.dumps(state)]
    one[STEP] = number


def attribute_of(one: Any, name: str) -> Any:
    """An attribute of a FiftyOne label, None where it has none of that name."""
    return one[name] if one.has_field(name) else None


def _of_step(dataset: Any, field: str, number: int) -> dict[str, set[str]]:
    ids, labels, steps = dataset.values(
        ["id", f"{field}.detections.id", f"{field}.detections.{STEP}"]
    )
    found = {}
    for id, mine, of in zip(ids, labels, steps, strict=True):
        of_step = {a for a, b in zip(mine or [], of or [], strict=True) if b == number}
        if of_step:
            found[id] = of_step
    return found


def _labels(dataset: Any, field: str, ids: Mapping[str, Collection[str]]) -> Iterator[Any]:
    for start in range(0, len(ids), _BATCH):
        batch = dataset.select(list(ids)[start : start + _BATCH])
        for id, labels in zip(*batch.values(["id", f"{field}.detections"]), strict=True):
            yield from (one for one in labels or [] if one.id in ids[id])


def _move(
    dataset: Any,
    field: str,
    ids: Mapping[str, Collection[str]],
    change: Callable[[str, Any], str],
) -> int:
    """Change labels of a field, and put each into the field that ``change`` returns."""
    changed = 0
    for start in range(0, len(ids), _BATCH):
        # Order of the samples, whatever the dataset's: their ids come with them.
        batch = dataset.select(list(ids)[start : start + _BATCH])
        present = [name for name in FIELDS if dataset.has_sample_field(name)]
        names = ["id", *(f"{name}.detections" for name in present)]
        of_sample, *columns = batch.values(names)
        now = {
            name: [list(labels or []) for labels in column]
            for name, column in zip(present, columns, strict=True)
        }
        for row, id in enumerate(of_sample):
            stay = []
            for one in now[field][row]:
                to = field
                if one.id in ids[id]:
                    step = attribute_of(one, STEP)
                    to = change(field, one)
                    changed += attribute_of(one, STEP) != step
                if to == field:
                    stay.append(one)
                else:
                    now[to][row].append(one)
            now[field][row] = stay
        for name in present:
            batch.set_values(name, [_detections(dataset, labels) for labels in now[name]])
    return changed


def _detections(dataset: Any, labels: list[Any]) -> Any:
    kind = dataset.get_field(TRANSFERRED).document_type
    return kind(detections=labels)
