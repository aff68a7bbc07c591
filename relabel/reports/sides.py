"""Pictures of a relabelled source: before and after as one, and the least sure and most changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from relabel.datasets.alternatives import alternatives_of
from relabel.datasets.changes import Changes, pair_boxes
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.datasets.removed import Removed
from relabel.errors import DataError
from relabel.geometry import paired_iou
from relabel.reports import statistics
from relabel.reports.compare import DrawnBox, Side, compared
from relabel.reports.page import details, embedded, note, swatch, table
from relabel.reports.pictures import IGNORE_COLOR, Color, crop_around, draw_boxes
from relabel.reports.style import escaped, named

_CROP_WIDTH = 320
_MOST_ROWS = 100  # of the list below a picture
_WORST = 6


class Story:
    """What happened to every box of a source, in words.

    Args:
        before: as annotated.
        after: relabelled, with provenance.
        gone: the annotations without a label of their own.
        found: the changes of annotations and labels.
    """

    def __init__(
        self, before: DetectionDataset, after: DetectionDataset, gone: Removed, found: Changes
    ) -> None:
        self.before, self.after = before, after
        # Made once: the property makes them anew for all boxes.
        self.annotated, self.labelled = before.boxes.xyxy, after.boxes.xyxy
        self._changed, self._label = found.words()
        self._reason = dict(zip(gone.row.tolist(), gone.reason, strict=True))
        self._gone = {row: k for k, row in enumerate(gone.row.tolist())}
        self._removed = gone
        self._lost = frozenset(gone.row[~gone.merged].tolist())
        to_rows, from_rows = pair_boxes(before, after)
        self.source_of = dict(zip(to_rows.tolist(), from_rows.tolist(), strict=True))
        self._labels_of: dict[int, list[int]] = {}
        for label, row in self.source_of.items():
            self._labels_of.setdefault(row, []).append(label)

    def lost(self, row: int) -> bool:
        """Whether an annotation left no label at all."""
        return row in self._lost

    def new(self, row: int) -> bool:
        """Whether a label comes from no annotation."""
        return self._label[row] == "added"

    def of_annotation(self, row: int) -> str:
        """Class, what became of it, and why."""
        boxes, names = self.before.boxes, self.before.space.names
        name = names[boxes.category[row]]
        if boxes.ignore[row]:
            return f"{name}: an ignore region"
        after = self.after
        labels = [after.space.names[after.boxes.category[k]] for k in self._labels_of.get(row, [])]
        parts = [f"{name}: {self._changed[row] or 'of a class to ignore'}"]
        parts += [f"now {', '.join(labels)}"] if labels else []
        if row in self._reason:
            parts += [
                self._reason[row],
                *removed_facts(self._removed, self._gone[row], after.space),
            ]
        return "; ".join(parts)

    def of_label(self, row: int) -> str:
        """Class, score, what happened, the source's class, and what else it may be."""
        name, parts = self.told_of_label(row)
        return f"{name}: {'; '.join(parts)}"

    def told_of_label(self, row: int) -> tuple[str, list[str]]:
        """The same as class and score, and the rest one by one."""
        boxes, names = self.after.boxes, self.after.space.names
        name = names[boxes.category[row]]
        if boxes.ignore[row]:
            return name, ["an ignore region"]
        name += "" if np.isnan(boxes.score[row]) else f" {boxes.score[row]:.2f}"
        parts = [self._label[row] or "label"]
        source = self.source_of.get(row)
        if source is not None:
            there, here = self.annotated[source : source + 1], self.labelled[row : row + 1]
            iou = paired_iou(there, here)[0]
            of = self.before.space.names[self.before.boxes.category[source]]
            parts.append(f"annotated as {of}, IoU with that box {iou:.2f}")
        elif boxes.provenance is not None:
            parts.append(f"from {boxes.provenance.origin[row]}, where nothing was annotated")
        others = alternatives_of(boxes, row)
        parts += [f"may also be {', '.join(others)}"] if others else []
        return name, parts


def removed_facts(gone: Removed, k: int, space: LabelSpace) -> list[str]:
    """How sure it was that an annotation without a label is an object, and of which class."""
    facts = []
    if not np.isnan(gone.probability[k]):
        facts.append(f"an object in the target: {gone.probability[k]:.2f}")
    if gone.category[k] >= 0:
        score = "" if np.isnan(gone.score[k]) else f" {gone.score[k]:.2f}"
        facts.append(f"best class: {space.names[gone.category[k]]}{score}")
    return facts


def pictures_before_after(
    key: str, story: Story, palette: Mapping[str, Color], count: int, seed: int
) -> str:
    """Images with their annotations and labels, each as one picture with a slider, as HTML.

    Args:
        key: unique on the page.
        count: images at most, see `statistics.choose_images`.
    """
    before, after = story.before, story.after
    joined = statistics.matching_images(before, after)
    figures, unreadable = [], 0
    seen: tuple[set[str], set[str]] = (set(), set())
    for row, reason in statistics.choose_images(before, after, count, seed):
        try:
            pixels = load_rgb(after, row)
        except DataError:
            unreadable += 1
            continue
        one = _before(story, int(joined[row]), palette, seen[0])
        two = _after(story, row, palette, seen[1])
        name = after.images.file_name[row]
        figures.append(
            f'<figure class="ba"><figcaption>{named(name)} <small>{reason}</small></figcaption>'
            f"{compared(f'{key}-{row}', pixels, one, two)}"
            f'<p class="note">{escaped(one.text)}. {escaped(two.text)}.</p>'
            f"{details('Labels', _labels(after, row))}</figure>"
        )
    left_out = note(f"{unreadable} images could not be read.") if unreadable else ""
    if not figures:
        return left_out
    legends = "".join(
        f'<div><strong>{label}</strong><ul class="legend">'
        + "".join(f"<li>{swatch(palette[n])}{named(n)}</li>" for n in sorted(names))
        + "</ul></div>"
        for label, names in (("Before", seen[0]), ("After", seen[1]))
    )
    text = (
        "The slider moves the border between the annotations and the labels. A box says what "
        "happened to it where the pointer rests, and when it has the focus: Tab leads into a "
        "picture, the arrows from box to box. Dashed: annotations that left no label, and labels "
        "that come from no annotation."
    )
    keys = f'<div class="keys">{legends}</div>{note(text)}'
    return f'{keys}<div class="twos">{"".join(figures)}</div>{left_out}'


def _before(story: Story, image: int, palette: Mapping[str, Color], seen: set[str]) -> Side:
    dataset, boxes = story.before, []
    rows = dataset.rows(image)
    xyxy = story.annotated[rows].tolist()
    lost = 0
    for row, corners in zip(range(rows.start, rows.stop), xyxy, strict=True):
        name = dataset.space.names[dataset.boxes.category[row]]
        ignored, gone = bool(dataset.boxes.ignore[row]), story.lost(row)
        lost += gone
        if not ignored:
            seen.add(name)
        # One class needs no name on every box.
        tag = "" if ignored or dataset.space.num_classes < 2 else name
        kind = "ignored" if ignored else "dashed" if gone else ""
        color = palette.get(name, IGNORE_COLOR)
        boxes.append(DrawnBox(tuple(corners), tag, color, story.of_annotation(row), kind))
    return Side("Before", _counted("Before", boxes, lost, "without a label"), boxes)


def _after(story: Story, image: int, palette: Mapping[str, Color], seen: set[str]) -> Side:
    dataset, boxes = story.after, []
    rows = dataset.rows(image)
    xyxy = story.labelled[rows].tolist()
    new = 0
    for row, corners in zip(range(rows.start, rows.stop), xyxy, strict=True):
        name, score = dataset.space.names[dataset.boxes.category[row]], dataset.boxes.score[row]
        ignored, added = bool(dataset.boxes.ignore[row]), story.new(row)
        new += added
        if not ignored:
            seen.add(name)
        tag = "" if ignored else name if np.isnan(score) else f"{name} {score:.2f}"
        kind = "ignored" if ignored else "dashed" if added else ""
        color = palette.get(name, IGNORE_COLOR)
        boxes.append(DrawnBox(tuple(corners), tag, color, story.of_label(row), kind))
    return Side("After", _counted("After", boxes, new, "new"), boxes)


def _counted(when: str, boxes: Sequence[DrawnBox], some: int, what: str) -> str:
    n = sum(box.kind != "ignored" for box in boxes)
    return f"{when}: {n} box{'es' * (n != 1)}" + (f", {some} {what}" if some else "")


def _labels(after: DetectionDataset, image: int) -> str:
    """Score, origin and alternatives of each label of an image."""
    boxes, names = after.boxes, after.space.names
    rows: list[list[object]] = []
    every = after.objects(image).tolist()
    for row in every[:_MOST_ROWS]:
        origin, annotation = "–", "–"
        if boxes.provenance is not None:
            origin = boxes.provenance.origin[row]
            annotation = boxes.provenance.source_category[row] or "–"
        others = ", ".join(alternatives_of(boxes, row)) or "–"
        score = "–" if np.isnan(boxes.score[row]) else f"{boxes.score[row]:.2f}"
        rows.append([names[boxes.category[row]], origin, annotation, others, score])
    head = ["label", "origin", "annotation", "may also be", "score"]
    more = note(f"and {len(every) - _MOST_ROWS:,} more") if len(every) > _MOST_ROWS else ""
    return table(head, rows, words=4) + more if rows else "<p>None.</p>"


def worst_cases(story: Story, palette: Mapping[str, Color]) -> str:
    """The labels with the lowest scores, and those whose boxes changed most, as HTML."""
    after = story.after
    rows = np.flatnonzero(~after.boxes.ignore)
    scored = rows[~np.isnan(after.boxes.score[rows])]
    unsure = scored[np.argsort(after.boxes.score[scored], kind="stable")[:_WORST]].tolist()
    pairs = [(k, s) for k, s in story.source_of.items() if not after.boxes.ignore[k]]
    moved: list[int] = []
    if pairs:
        labels, sources = np.array(pairs).T
        iou = paired_iou(story.annotated[sources], story.labelled[labels])
        order = np.argsort(iou, kind="stable")[:_WORST]
        moved = labels[order[iou[order] < 1]].tolist()
    groups = {"Least sure": unsure, "Largest change of a box": moved}
    parts, unreadable = [], 0
    for title, chosen in groups.items():
        cards = [card for k in chosen if (card := _worst(story, k, palette))]
        unreadable += len(chosen) - len(cards)
        if cards:
            parts.append(f'<h4>{title}</h4><div class="cards">{"".join(cards)}</div>')
    left_out = note(f"{unreadable} images could not be read.") if unreadable else ""
    text = "Plain: the label. Dashed: the annotation that it comes from, if it comes from one."
    return f"{note(text)}{''.join(parts)}{left_out}" if parts else left_out or "<p>None.</p>"


def _worst(story: Story, row: int, palette: Mapping[str, Color]) -> str:
    before, after = story.before, story.after
    image = int(after.boxes.image[row])
    try:
        pixels = load_rgb(after, image)
    except DataError:
        return ""
    drawn = [story.labelled[row]]
    labels = [after.space.names[after.boxes.category[row]]]
    source = story.source_of.get(row)
    if source is not None:
        drawn.append(story.annotated[source])
        labels.append(before.space.names[before.boxes.category[source]])
    every = np.array(drawn)
    x1, y1 = every[:, :2].min(axis=0).tolist()
    x2, y2 = every[:, 2:].max(axis=0).tolist()
    part, around = crop_around(pixels, (x1, y1, x2, y2))
    every = every + np.tile(np.array(around[:2]) - (x1, y1), 2)
    dashed = np.arange(len(every)) > 0
    picture = draw_boxes(
        part, every, labels, colors=palette, dashed=dashed, width=_CROP_WIDTH, tags=False, line=3
    )
    first, parts = story.told_of_label(row)
    lines = "".join(f"<p>{named(line)}</p>" for line in parts)
    return (
        f"<figure>{embedded(picture, story.of_label(row))}"
        f"<figcaption><strong>{named(first)}</strong>{lines}"
        f"<p><small>{named(after.images.file_name[image])}</small></p></figcaption></figure>"
    )
