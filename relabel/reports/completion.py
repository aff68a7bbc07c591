"""The report of completed labels: co-occurrence, what was added, how sure, pictures with labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from relabel.reports import charts
from relabel.reports.compare import switch
from relabel.reports.made import Made
from relabel.reports.page import (
    Cell,
    embedded,
    note,
    picture_section,
    table,
    tiles,
    write_page,
)
from relabel.reports.style import escaped, named

_WIDTH, _HEIGHT = 420, 315  # pixels of a picture at most
_MATRIX = 20  # categories that a matrix shows at most
_PAIRS = 15
_ENOUGH = 5  # images that tell of a pair
_CLASSES = 30
_LABELS_SHOWN = 9
_BELOW_SHOWN = 2
_ORIGINS = {"ist": "other labels", "cst": "alike images", "classifier": "classifier"}


@dataclass(frozen=True)
class Label:
    """A category of an image, as the report lists it.

    Attributes:
        name: the category.
        confidence: that it is present.
        source: ``known``, ``ist``, ``cst`` or ``classifier``.
        present: whether the completed labels have it.
        truth: whether it is present in truth; None where nobody says.
    """

    name: str
    confidence: float
    source: str
    present: bool
    truth: bool | None = None


@dataclass(frozen=True, eq=False)
class CompletedPicture:
    """One image of the report: why it is shown, its pixels (uint8 [H, W, 3]) and its labels."""

    name: str
    group: str
    pixels: np.ndarray
    labels: Sequence[Label]


@dataclass(frozen=True, eq=False)
class CompletionCounts:
    """Numbers of completed labels. Categories are in the order of ``classes`` throughout.

    Attributes:
        numbers: by what they are, for the tiles: whole numbers, or shares as text.
        classes: C names.
        present, absent, unknown: int [C], known labels, and those that were not known.
        added: by source int [C], unknown labels that were completed as present.
        before, after: images by number of known and of completed present labels: "0", "1", ...
        confidences: unknown labels by confidence, by bin.
        pairs: float [C, C], images known to show the first to which the second was added.
        statistical: float [C, C], share of the images with the first that have the second, where
            known; NaN where no image tells.
        told: float [C, C], how many images that is counted in.
        learned: the same as the model has it.
        learned_is: what that is, for the heading.
        bins: of the unknown labels whose truth is at hand, by bin of confidence: how many, mean
            confidence, share that is present.
        error: expected calibration error over them, None without.
        metrics: rows of measures (what, of what, value), where the truth is at hand.
        class_ap: AP of the categories over unknown labels by name, likewise.
        threshold: confidence from which an unknown label counts as present.
    """

    numbers: Mapping[str, object]
    classes: Sequence[str]
    present: np.ndarray
    absent: np.ndarray
    unknown: np.ndarray
    added: Mapping[str, np.ndarray]
    before: Mapping[str, int]
    after: Mapping[str, int]
    confidences: Mapping[str, int]
    pairs: np.ndarray
    statistical: np.ndarray
    told: np.ndarray
    learned: np.ndarray
    learned_is: str
    bins: tuple[np.ndarray, np.ndarray, np.ndarray]
    error: float | None = None
    metrics: Sequence[tuple[str, str, float | None]] = ()
    class_ap: Mapping[str, float] = field(default_factory=dict)
    threshold: float = 0.5


def write_completion_report(
    out: Path,
    counts: CompletionCounts,
    pictures: Sequence[CompletedPicture],
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    made: Made | None = None,
) -> Path:
    """Write the report; the same inputs give the same bytes.

    Args:
        out: the HTML file.
        counts: its numbers.
        pictures: its images, in the order of their groups.
        title: its heading.
        settings: settings of the run; tables may be nested.
        made: command, versions and times of the run.

    Returns:
        ``out``.
    """
    sections = [_overview(counts), _cooccurrence(counts), _completions(counts), _measured(counts)]
    contents = {
        "overview": "Overview",
        "cooccurrence": "Co-occurrence",
        "completions": "Completions",
    }
    contents |= {"reliability": "Reliability"}
    if pictures:
        contents["pictures"] = "Pictures"
        numbers = count()
        card = partial(_card, numbers)
        sections.append(picture_section(pictures, _key(pictures), card))
    return write_page(out, title, contents, sections, settings, made)


def _overview(counts: CompletionCounts) -> str:
    bins = len(counts.confidences)
    shown = [
        charts.bars(counts.before, title="Known present labels", note="per image"),
        charts.bars(counts.after, title="Completed present labels", note="per image"),
        charts.bars(
            counts.confidences,
            title="Confidence of unknown labels",
            note=f"present from {counts.threshold:g} on",
            every=max(1, bins // 4),
            mark=round(counts.threshold * bins),
        ),
    ]
    parts = {
        "known present": int(counts.present.sum()),
        **{f"added, {_ORIGINS[k]}": int(v.sum()) for k, v in counts.added.items() if v.any()},
    }
    added = sum(int(v.sum()) for v in counts.added.values())
    absent = {"known absent": int(counts.absent.sum())}
    absent["completed absent"] = int(counts.unknown.sum()) - added
    return (
        f'<section id="overview"><h2>Overview</h2>{tiles(counts.numbers)}'
        f'<div class="charts">{"".join(shown)}</div>'
        f"<h3>Present labels by what gave them</h3>{charts.share_bar(parts)}"
        f"<h3>Absent labels</h3>{charts.share_bar(absent)}</section>"
    )


def _cooccurrence(counts: CompletionCounts) -> str:
    kept = np.sort(np.argsort(-counts.present, kind="stable")[:_MATRIX])
    names = [counts.classes[int(k)] for k in kept]
    both = np.ix_(kept, kept)
    what = "{value} of the images with {row} have {column}"
    maps = [
        charts.heat_map(
            np.clip(matrix[both], 0, 1), names, title=title, note=about, what=f"{what}, {end}"
        )
        for matrix, title, about, end in (
            (counts.statistical, "Statistical", "counted in the known labels", "by the labels"),
            (counts.learned, "Learned", counts.learned_is, "by the model"),
        )
    ]
    more = len(counts.classes) - len(kept)
    left = f" The {len(kept)} categories with the most known labels are shown." if more else ""
    head = '<section id="cooccurrence"><h2>Co-occurrence</h2>' + note(
        "How many of the images with the category of the row have that of the column. Cells "
        f"without an image that tells are empty.{left}"
    )
    differing = _differing(counts)
    body = f'<div class="charts two">{"".join(maps)}</div>'
    return f"{head}{body}{differing}</section>"


def _differing(counts: CompletionCounts) -> str:
    """A table of the pairs about which labels and model disagree, where enough images tell."""
    gap = counts.learned - counts.statistical
    np.fill_diagonal(gap, np.nan)
    gap[counts.told < _ENOUGH] = np.nan
    order = np.argsort(-np.nan_to_num(np.abs(gap), nan=-1.0), axis=None, kind="stable")
    rows = []
    for a, b in zip(*np.unravel_index(order[:_PAIRS], gap.shape), strict=True):
        if np.isfinite(gap[a, b]):
            ends = (counts.statistical[a, b], counts.learned[a, b])
            names = (counts.classes[a], counts.classes[b])
            shares = [f"{v:.0%}" for v in ends]
            rows.append([*names, int(counts.told[a, b]), *shares, f"{100 * gap[a, b]:+.0f}"])
    if not rows:
        return ""
    return table(
        ["with", "have", "images", "counted", "learned", "points"],
        rows,
        title=f"Where the two differ most, of pairs that {_ENOUGH} images or more tell of",
        words=2,
    )


def _completions(counts: CompletionCounts) -> str:
    total = sum(counts.added.values(), np.zeros(len(counts.classes), np.int64))
    head = '<section id="completions"><h2>Completions</h2>' + note(
        "Labels that were not known and are completed as present, at a confidence of "
        f"{counts.threshold:g} or more."
    )
    if not total.any():
        return f"{head}<p>No label was added.</p></section>"
    sources = [name for name, added in counts.added.items() if added.any()]
    order = np.argsort(-total, kind="stable")[:_CLASSES]
    rows = [
        [
            counts.classes[c],
            int(counts.present[c]),
            int(counts.unknown[c]),
            int(total[c]),
            *(int(counts.added[name][c]) for name in sources if len(sources) > 1),
            _bar(int(total[c]), int(total.max())),
        ]
        for c in order.tolist()
        if total[c]
    ]
    by = [_ORIGINS[name] for name in sources] if len(sources) > 1 else []
    classes = table(
        ["category", "known present", "unknown", "added", *by, ""],
        rows,
        title="Most frequent categories",
    )
    order = np.argsort(-counts.pairs, axis=None, kind="stable")[:_CLASSES]
    most = float(counts.pairs.max())
    pairs = [
        [
            counts.classes[a],
            counts.classes[b],
            int(counts.pairs[a, b]),
            f"{counts.pairs[a, b] / counts.present[a]:.0%}",
            _bar(int(counts.pairs[a, b]), int(most)),
        ]
        for a, b in zip(*np.unravel_index(order, counts.pairs.shape), strict=True)
        if counts.pairs[a, b]
    ]
    added = table(
        ["known", "added", "images", "of the known", ""],
        pairs,
        title="Most frequent pairs",
        words=2,
    )
    return f'{head}<div class="tables">{classes}{added if pairs else ""}</div></section>'


def _measured(counts: CompletionCounts) -> str:
    head = '<section id="reliability"><h2>Reliability</h2>'
    count, confidence, share = counts.bins
    if not count.sum() and not counts.metrics:
        return head + note("There is no truth to compare the completed labels with.") + "</section>"
    parts = [head]
    if count.sum():
        parts.append(
            note(
                "Of the labels that were hidden, the share that is present in truth, by "
                "confidence. A confidence that can be taken at its word has its bars end at the "
                "dashed line."
            )
        )
        gap = "" if counts.error is None else f", {counts.error:.3f} from the line in the mean"
        text = f"{int(count.sum()):,} labels{gap}"
        chart = charts.reliability(
            confidence, share, count, title="Share that is present by confidence", note=text
        )
        parts.append(f'<div class="charts">{chart}</div>')
    tables = ""
    if counts.metrics:
        found = {(what, of): value for what, of, value in counts.metrics}
        columns = list(dict.fromkeys(of for _, of in found))
        rows = [
            [what, *(_percent(found.get((what, of))) for of in columns)]
            for what in dict.fromkeys(what for what, _ in found)
        ]
        tables += table(["measure", *columns], rows, title="Measured, in percent")
    if counts.class_ap:
        lowest = sorted(counts.class_ap.items(), key=lambda item: item[1])[:_CLASSES]
        known = dict(zip(counts.classes, counts.present.tolist(), strict=True))
        rows = [[name, known.get(name, 0), _percent(ap)] for name, ap in lowest]
        title = "AP of hidden labels, the lowest first"
        tables += table(["category", "known present", "AP"], rows, title=title)
    return f'{"".join(parts)}<div class="tables">{tables}</div></section>'


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _bar(count: int, most: int) -> Cell:
    return Cell(f'<i style="width:{count / most:.1%}"></i>', "bar")


def _key(pictures: Sequence[CompletedPicture]) -> str:
    truth = any(label.truth is not None for p in pictures for label in p.labels)
    marks = " Of hidden labels, ✓ and ✗ say whether the completion is right." if truth else ""
    return note(
        "Before is what was known of the whole photo; of what was not known nobody says whether it "
        "is there. After: first what was known to be present, then what was added with its "
        "confidence and what gave it, in grey the next of those that were not added, or that are "
        f"missing.{marks}"
    )


def _card(numbers: Iterator[int], picture: CompletedPicture) -> str:
    pixels = Image.fromarray(np.ascontiguousarray(picture.pixels))
    scale = min(_WIDTH / pixels.width, _HEIGHT / pixels.height, 2.0)
    size = (max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale)))
    drawn = pixels.resize(size, Image.Resampling.LANCZOS)
    known = [label for label in picture.labels if label.source == "known" and label.present]
    rest = sorted(
        (label for label in picture.labels if label.source != "known"),
        key=lambda label: -label.confidence,
    )
    added = [label for label in rest if label.present]
    below = [label for label in rest if not label.present]
    missed = [label for label in below if label.truth]
    near = [label for label in below if not label.truth][: max(0, _BELOW_SHOWN - len(missed))]
    faint = sorted((*missed, *near), key=lambda label: -label.confidence)
    listed = [*(_item(label) for label in known), *(_item(label) for label in added)]
    more = len(listed) - _LABELS_SHOWN
    items = "".join([*listed[:_LABELS_SHOWN], *(_item(label) for label in faint[:4])])
    left = f"<p><small>and {more} more</small></p>" if more > 0 else ""
    body = f"<ul>{items}</ul>" if items else "<p>no label</p>"
    # The photo stays as it is: what changes is what is known of the whole of it.
    choices = {"one": "before", "two": "after"}
    shown = switch(f"image-{next(numbers)}", choices, "two") if added or faint else ""
    text = f"{picture.name}: {len(known)} labels known, {len(added)} added"
    return (
        f'<figure class="told">{shown}{embedded(drawn, text)}<figcaption>'
        f"{body}{left}<small>{named(picture.name)}</small></figcaption></figure>"
    )


def _item(label: Label) -> str:
    name = named(label.name)
    if label.source == "known":
        return f'<li><i class="known"></i><span><b>{name}</b></span><span>known</span></li>'
    right = None if label.truth is None else label.truth == label.present
    mark = "" if right is None else " right" if right else " wrong"
    sign = "" if right is None else "✓ " if right else "✗ "
    missing = "missing" if label.truth else "not added"
    origin = _ORIGINS[label.source] if label.present else missing
    kind = "" if label.present else " faint"
    ring = "added" if label.present else "none"
    said = f'<span class="now{mark}">{sign}{label.confidence:.2f}</span>'
    return (
        f'<li class="new{kind}"><i class="{ring}"></i>'
        f'<span>{name} <em class="now">{escaped(origin)}</em></span>'
        f'<span class="was">not known</span>{said}</li>'
    )
