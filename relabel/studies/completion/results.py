"""The numbers of a comparison: per proportion and seed, their means, and paired differences.

Spread is the sample standard deviation over seeds (n - 1), and None with one seed. An average is
over the proportions, seed by seed, and is there for the seeds that have all of them. Proportions
that leave nothing to measure, as 100 % leaves no hidden label, do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relabel.evaluation.tables import NONE, Rows, markdown, percentage
from relabel.studies.completion.run import (
    VARIANTS,
    Cell,
    CompletionPlan,
    finished,
    resampled_of,
)
from relabel.studies.downstream.intervals import CONFIDENCE, Interval, interval_text
from relabel.studies.means import Mean
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json

JSON_FILE, MARKDOWN_FILE = "completion.json", "completion.md"
PLAIN = "bce"
"""The plain baseline, with which every row is compared beside the protocol's reference."""
WHERE = {"test": "test images", "unknown": "hidden labels of the training images"}
MEASURES = ("mAP", "CF1", "OF1")


def collect(plan: CompletionPlan, *, title: str, reference: str) -> dict[str, Any]:
    """Everything of the plan that is finished, JSON-ready."""
    datasets = {}
    for subject in plan.subjects:
        cells = [c for c in plan.cells if c.subject is subject]
        done = {id(c): m for c in cells if (m := finished(c)) is not None}
        found = {
            f"{arm.name}{variant}": [
                (c, done[id(c)]["variants"][variant])
                for c in cells
                if c.arm is arm and id(c) in done and variant in done[id(c)]["variants"]
            ]
            for arm in plan.arms
            for variant in VARIANTS
        }
        rows = {name: these for name, these in found.items() if these}
        first = next(iter(done.values()), {})
        datasets[subject.name] = {
            "images": len(subject.train),
            "test_images": 0 if subject.test is None else len(subject.test),
            "classes": subject.train.num_classes,
            "known_entries": int(subject.train.known.nnz),
            "changes": _plain(subject.changes),
            "rows": {name: _row(these, plan) for name, these in rows.items()},
            "intervals": _intervals(cells, done, (reference, PLAIN)),
            "missing": [
                {"method": c.arm.name, "known": c.proportion, "seed": c.seed}
                for c in cells
                if id(c) not in done
            ],
            "seconds": sum(m["seconds"] for m in done.values()),
        }
        assert not first or first["classes"] == subject.train.num_classes
    return {
        "title": title,
        "reference": reference,
        "proportions": list(plan.proportions),
        "seeds": list(plan.seeds),
        "settings": plan.base.result_dict() | {"held_back": plan.base.held_back},
        "datasets": datasets,
    }


def _row(found: Sequence[tuple[Cell, Mapping[str, Any]]], plan: CompletionPlan) -> dict[str, Any]:
    row: dict[str, Any] = {"changes": _plain(found[0][0].arm.changes)}
    for where in WHERE:
        row[where] = {}
        for measure in MEASURES:
            values: dict[float, dict[int, float | None]] = {p: {} for p in plan.proportions}
            for cell, entry in found:
                if entry[where] is not None:
                    values[cell.proportion][cell.seed] = entry[where][measure]
            row[where][measure] = _over_proportions(values)
    return row


def _over_proportions(values: Mapping[float, Mapping[int, float | None]]) -> dict[str, Any]:
    """Values by proportion and seed, the means over seeds, and those of the averages."""
    seeds = sorted({seed for of in values.values() for seed in of})
    averages: list[float] = []
    for seed in seeds:
        found = [of.get(seed) for of in values.values() if not of or _measured(of)]
        known = [value for value in found if value is not None]
        if known and len(known) == len(found):
            averages.append(float(np.mean(known)))
    return {
        "values": {_key(p): {str(s): v for s, v in of.items()} for p, of in values.items()},
        "means": {_key(p): _mean(Mean.of(of.values())) for p, of in values.items()},
        "average": _mean(Mean.of(averages)),
    }


def _measured(of: Mapping[int, float | None]) -> bool:
    return any(value is not None for value in of.values())


def _mean(found: Mean | None) -> dict[str, Any] | None:
    return None if found is None else vars(found)


def _key(proportion: float) -> str:
    """A share as the tables write it, in percent."""
    return f"{100 * proportion:g}"


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()}


def _intervals(
    cells: Sequence[Cell], done: Mapping[int, Any], references: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By what is measured, row and reference: the difference in average mAP with its interval.

    The difference is taken training by training, over the proportions and seeds that both rows
    have, under the same resamples of images.
    """
    arrays = {(c.arm.name, c.proportion, c.seed): resampled_of(c) for c in cells if id(c) in done}
    names = list(dict.fromkeys(c.arm.name for c in cells))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for where in WHERE:
        by_row = {
            f"{name}{variant}": {
                (p, s): values[f"{where}{variant}"]
                for (arm, p, s), values in arrays.items()
                if arm == name and f"{where}{variant}" in values
            }
            for name in names
            for variant in VARIANTS
        }
        found[where] = {}
        for row, values in by_row.items():
            for reference in dict.fromkeys(references):
                if row != reference and reference in by_row:
                    interval = paired_interval(values, by_row[reference])
                    if interval is not None:
                        found[where].setdefault(row, {})[reference] = interval.to_dict()
    return found


def paired_interval(
    values: Mapping[tuple[float, int], np.ndarray],
    reference: Mapping[tuple[float, int], np.ndarray],
) -> Interval | None:
    """Interval of the mean difference over the trainings that both have, by proportion and seed.

    Trainings without anything to measure count for neither.

    Args:
        values, reference: float64 [1 + B] each, the images as they are and resampled.

    Returns:
        None without a training in common, or without truth.
    """
    common = sorted(
        key
        for key in values.keys() & reference.keys()
        if not np.isnan([values[key][0], reference[key][0]]).all()
    )
    if not common:
        return None
    change = np.mean([values[key] - reference[key] for key in common], axis=0)
    drawn = change[1:][~np.isnan(change[1:])]
    if np.isnan(change[0]) or len(drawn) < 2:
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    seeds = len({seed for _, seed in common})
    return Interval(float(change[0]), float(low), float(high), seeds)


def completion_table(dataset: Mapping[str, Any], where: str, measure: str = "mAP") -> Rows:
    """A row per method, a column per proportion, and the average; percent, mean and deviation."""
    rows = []
    for name, row in dataset["rows"].items():
        found = row[where][measure]
        cells = [_text(found["means"][key]) for key in found["means"]]
        rows.append([name, *cells, _text(found["average"])])
    if not rows:
        return ["method"], []
    keys = next(iter(dataset["rows"].values()))[where][measure]["means"]
    return ["method", *(f"{key} %" for key in keys), "average"], rows


def average_table(dataset: Mapping[str, Any], *, spread: bool = True) -> Rows:
    """A row per method: average mAP, CF1 and OF1 on test images and on hidden labels.

    Args:
        spread: with the deviation over seeds.
    """

    def text(found: Mapping[str, Any] | None) -> str:
        return _text(found if spread or found is None else {**found, "std": None})

    header = ["method", *(f"{m}, {w}" for w in ("test", "hidden") for m in MEASURES)]
    rows = [
        [name, *(text(row[where][m]["average"]) for where in WHERE for m in MEASURES)]
        for name, row in dataset["rows"].items()
    ]
    return header, rows


def overall_table(content: Mapping[str, Any]) -> Rows:
    """A row per method: average mAP on each dataset's test images and hidden labels, and the mean
    over the datasets; without rows where fewer than two datasets are measured."""
    datasets = {name: of["rows"] for name, of in content["datasets"].items() if of["rows"]}
    header, rows = ["method"], []
    for about in ("test", "hidden"):
        header += [f"{name}, {about}" for name in datasets] + [f"mean, {about}"]
    shared = dict.fromkeys(row for of in datasets.values() for row in of)
    for row in shared if len(datasets) > 1 else ():
        cells = [row]
        for where in WHERE:
            found = [
                of[row][where]["mAP"]["average"] if row in of else None for of in datasets.values()
            ]
            values = [None if entry is None else entry["mean"] for entry in found]
            known = [value for value in values if value is not None]
            mean = sum(known) / len(known) if len(known) == len(values) else None
            cells += [percentage(value) for value in (*values, mean)]
        rows.append(cells)
    return header, rows


def interval_table(dataset: Mapping[str, Any], where: str) -> Rows:
    """A row per method: its difference in average mAP to each reference, with the interval."""
    found = dataset["intervals"].get(where, {})
    references = list(dict.fromkeys(r for of in found.values() for r in of))
    rows = []
    for name, of in found.items():
        cells = []
        for reference in references:
            entry = of.get(reference)
            if entry is None:
                cells.append(NONE)
                continue
            interval = Interval(**{k: v for k, v in entry.items() if k != "excludes_zero"})
            cells.append(interval_text(interval))
        rows.append([name, *cells])
    return ["method", *(f"− {reference}" for reference in references)], rows


def _text(found: Mapping[str, Any] | None) -> str:
    return NONE if found is None else percentage(found["mean"], found["std"])


def shown_tables(content: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """Tables for a terminal of 80 columns, with their titles; files have those by share, too."""
    shown = []
    header, rows = overall_table(content)
    if rows:
        kept = [i for i, name in enumerate(header) if name.split(",")[0] in ("method", "mean")]
        short = [[row[i] for i in kept] for row in (header, *rows)]
        shown.append(("Average mAP over the shares and the datasets", (short[0], short[1:])))
    for name, dataset in content["datasets"].items():
        if dataset["rows"]:
            title = f"{name}: averages over the shares that are known"
            shown.append((title, average_table(dataset, spread=False)))
        for where, about in WHERE.items():
            rows = interval_table(dataset, where)
            if rows[1]:
                shown.append((f"{name}: differences in average mAP on {about}", rows))
    return shown


def write_completion(content: Mapping[str, Any], out: Path, command: str) -> dict[str, Path]:
    """Write ``completion.json``, ``completion.md`` and the plots; returns them by kind."""
    from relabel.reports.charts import save_figure
    from relabel.studies.completion.plots import completion_figure

    files = {"json": out / JSON_FILE, "markdown": out / MARKDOWN_FILE}
    atomic_write_json(files["json"], content, indent=1)
    atomic_write_bytes(files["markdown"], _report(content, command).encode())
    for name, dataset in content["datasets"].items():
        for where in WHERE:
            figure = completion_figure(dataset, where, f"{name}: mAP on {WHERE[where]}")
            if figure is not None:
                save_figure(figure, out / f"{name}_{where}")
    return files


def _report(content: Mapping[str, Any], command: str) -> str:
    seeds = ", ".join(map(str, content["seeds"]))
    lines = [
        f"# {content['title']}",
        "",
        "Labels of the training images are hidden at random, entry by entry, and each method is "
        "trained on the share that stays known. mAP over categories in percent, mean ± standard "
        f"deviation over seeds ({seeds}); the average is over the shares. `{'`, `'.join(VARIANTS)}`"
        " behind a method: each category's classifier refitted on its known labels.".replace(
            "``, ", ""
        ),
        "",
        "```",
        command,
        "```",
    ]
    overall = overall_table(content)
    if overall[1]:
        lines += ["", "Averages of mAP over the shares, and their means over the datasets:", ""]
        lines += [markdown(overall)]
    for name, dataset in content["datasets"].items():
        lines += ["", f"## {name}", "", _about(dataset)]
        if not dataset["rows"]:
            continue
        for where, about in WHERE.items():
            if any(row[where]["mAP"]["average"] for row in dataset["rows"].values()):
                lines += ["", f"mAP on {about}, by the share that is known:", ""]
                lines += [markdown(completion_table(dataset, where))]
        lines += ["Averages over the shares:", "", markdown(average_table(dataset))]
        for where, about in WHERE.items():
            table = interval_table(dataset, where)
            if table[1]:
                lines += [
                    f"Differences in average mAP on {about}, in points, with 95 % bootstrap "
                    "intervals over images (the same draws for both); a star marks those that "
                    "exclude 0:",
                    "",
                    markdown(table),
                ]
        if dataset["missing"]:
            left = len(dataset["missing"])
            lines += [f"Not finished: {left} training{'s' * (left != 1)}.", ""]
    return "\n".join(lines)


def _about(dataset: Mapping[str, Any]) -> str:
    entries = dataset["images"] * dataset["classes"]
    share = dataset["known_entries"] / max(entries, 1)
    known = "all" if share == 1 else f"{share:.1%}"
    return (
        f"{dataset['images']} images to complete, {dataset['test_images']} test images, "
        f"{dataset['classes']} categories; {known} of the labels have a truth. "
        f"{dataset['seconds']:.0f} s for all trainings."
        + "".join(f" Here {key} = {value}." for key, value in dataset["changes"].items())
    )
