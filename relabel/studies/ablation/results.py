"""The numbers of an ablation: per seed, their mean and spread, and paired with the default's.

Spread is the sample standard deviation over seeds (n - 1), and None with one seed. A difference
is taken seed by seed, over the seeds that the arm and the default have in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from relabel.align.settings import stage_settings
from relabel.evaluation.tables import Rows, markdown, percentage
from relabel.studies.ablation.arms import DEFAULT
from relabel.studies.ablation.run import AblationPlan, finished_metrics, metrics_of
from relabel.studies.means import Mean, seed_differences
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json

JSON_FILE, MARKDOWN_FILE = "ablation.json", "ablation.md"
# Where a number stands in `TransferMetrics.to_dict`.
METRICS: dict[str, tuple[str, ...]] = {
    "F1@0.5": ("at", "0.5", "f1"),
    "F1@0.75": ("at", "0.75", "f1"),
    "AP": ("AP",),
    "AP75": ("AP75",),
    "mean IoU": ("mean_iou", "after"),
    "class accuracy": ("at", "0.5", "class_accuracy"),
}
SHOWN_DIFFERENCES = ("AP", "F1@0.75")


def numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the table, from what `TransferMetrics.to_dict` gave."""
    return {name: reduce(getitem, path, metrics) for name, path in METRICS.items()}


def summarize(values: Iterable[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation of what is known of some values."""
    found = Mean.of(values)
    return {"mean": found and found.mean, "std": found and found.std}


def differences(
    values: Mapping[int, float | None], reference: Mapping[int, float | None]
) -> dict[str, Any]:
    """Values by seed minus a reference's, over the seeds that both have."""
    found = seed_differences(values, reference)
    return {"seeds": list(found), **summarize(found.values())}


def collect(plan: AblationPlan) -> dict[str, Any]:
    """Everything that is finished in the folder, JSON-ready; of the arms not asked for, too."""
    by_arm = {
        arm.name: (arm, {seed: numbers(m) for seed, m in found.items()})
        for arm in plan.known
        if (found := metrics_of(plan, arm))
    }
    reference = by_arm[DEFAULT][1] if DEFAULT in by_arm else {}
    arms = {}
    for name, (arm, seeds) in by_arm.items():
        owner = plan.owner[name].name
        values = {m: [found[m] for found in seeds.values()] for m in METRICS}
        means = {m: summarize(values[m]) for m in METRICS}
        arms[name] = {
            "group": arm.group,
            "about": arm.about,
            "changes": {k: list(v) if isinstance(v, tuple) else v for k, v in arm.changes.items()},
            "same_as": None if owner == name else owner,
            "seeds": list(seeds),
            "values": values,
            **{key: {m: means[m][key] for m in METRICS} for key in ("mean", "std")},
            "difference": {
                m: differences(*({s: v[m] for s, v in of.items()} for of in (seeds, reference)))
                for m in METRICS
            },
        }
    baselines = finished_metrics(plan.baselines)
    asked = {arm.name for arm in plan.arms}
    return {
        "target": plan.aligned.target,
        "sources": list(plan.aligned.names[1:]),
        "simulate": plan.simulated,
        "images": baselines.get("images"),
        "boxes": baselines.get("boxes"),
        "convention": baselines.get("convention"),
        "settings": stage_settings(plan.base),
        "baselines": {name: numbers(m) for name, m in baselines.get("baselines", {}).items()},
        "arms": arms,
        "missing": [
            {"arm": arm.name, "seed": seed}
            for seed in plan.seeds
            for arm in plan.known
            if arm.name in asked and seed not in arms.get(arm.name, {}).get("seeds", ())
        ],
    }


def ablation_table(content: Mapping[str, Any]) -> Rows:
    """One row per baseline and arm, in percent; differences to the default at the end."""
    shown = [f"{name} − default" for name in SHOWN_DIFFERENCES]
    header = ["arm", "what", "seeds", *METRICS, *shown]
    rows = [
        ["baseline", name, "", *(percentage(values[m]) for m in METRICS), *("" for _ in shown)]
        for name, values in content["baselines"].items()
    ]
    for name, arm in content["arms"].items():
        about = f"{arm['about']} (= {arm['same_as']})" if arm["same_as"] else arm["about"]
        cells = [percentage(arm["mean"][m], arm["std"][m]) for m in METRICS]
        changes = [arm["difference"][m] for m in SHOWN_DIFFERENCES]
        if name == DEFAULT or arm["same_as"] == DEFAULT:
            cells += ["" for _ in changes]
        else:
            cells += [percentage(c["mean"], c["std"], signed=True) for c in changes]
        rows.append([name, about, str(len(arm["seeds"])), *cells])
    return header, rows


def difference_table(content: Mapping[str, Any]) -> Rows:
    """Every metric of every arm minus the default's, in points, over common seeds."""
    rows = [
        [name, str(len(arm["difference"]["AP"]["seeds"]))]
        + [percentage(d["mean"], d["std"], signed=True) for d in arm["difference"].values()]
        for name, arm in content["arms"].items()
        if name != DEFAULT and arm["same_as"] != DEFAULT
    ]
    return ["arm − default", "seeds", *METRICS], rows


def write_ablation(content: Mapping[str, Any], out: Path, command: str) -> dict[str, Path]:
    """Write ``ablation.json`` and ``ablation.md``; returns them by kind."""
    files = {"json": out / JSON_FILE, "markdown": out / MARKDOWN_FILE}
    atomic_write_json(files["json"], content, indent=1)
    atomic_write_bytes(files["markdown"], _report(content, command).encode())
    return files


def _report(content: Mapping[str, Any], command: str) -> str:
    settings = content["settings"]
    labels = "of labels as calibrated" if settings["folds"] > 1 else "of labels from score 0.5"
    lines = [
        f"# Ablation of label transfer into {content['target']}",
        "",
        f"Held-back training images of `{content['target']}` simulate the source "
        f"`{content['simulate']}`; no truth of source images is read. Percent, mean "
        "± standard deviation over seeds; differences are paired by seed. All numbers are "
        f"{labels}.",
    ]
    if content["convention"]:
        how = content["convention"]
        lines += [
            "",
            f"{content['images']} images, {content['boxes']} boxes. Simulated convention, measured "
            f"on `{content['simulate']}` against pseudo-labels: boxes {how['wider']:.2f} times "
            f"wider and {how['higher']:.2f} times higher, objects under {how['smallest']:.0f} px "
            "left out. "
            f"{settings['epochs']:g} epochs"
            + (f" ({settings['steps']} steps)" if settings["steps"] else "")
            + f", {settings['folds']} model(s) per arm.",
        ]
    lines += ["", "```", command, "```", "", markdown(ablation_table(content))]
    if len(content["arms"]) > 1:
        lines += ["Differences to the default, in points:", "", markdown(difference_table(content))]
    if content["missing"]:
        left = ", ".join(f"{m['arm']} seed {m['seed']}" for m in content["missing"])
        lines += [f"Not finished: {left}.", ""]
    return "\n".join(lines)
