"""Do other specialists make a better LAT? Labels against paired truth, and detectors on them.

    python benchmarks/lat_specialists.py benchmarks/protocols/lat_specialists.toml --out DIR

Every set, seed and arm is a run of `relabel align` up to the transferred labels, and a detector
trained on those and on the target; the seed draws the target's labelled images and is that of all
trainings. Finished work is never redone, and several processes share the work where their seeds
or sets differ. Prints the quality of labels and test AP, with paired bootstrap intervals to the
first arm, and writes the same to ``lat_specialists.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _studies import chosen, chosen_seeds, finished, study_parser
from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]
from relabel.commands.evaluate_downstream import (  # pyright: ignore[reportMissingImports]
    detector_settings,
)

from relabel.align.settings import AlignSettings, PipelineSettings
from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.catalogue.selection import Selection
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.evaluation.tables import markdown
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime, Settings, settings_from
from relabel.studies.downstream.arms import ARMS
from relabel.studies.downstream.direct import DIRECT
from relabel.studies.downstream.intervals import interval_text, paired_intervals, resampled
from relabel.studies.downstream.results import LAT, METRIC_NAMES, Comparison
from relabel.studies.downstream.run import Request, compare
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.studies.means import Mean, mean_percentage
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json
from relabel.workspace.progress import message

STEM = "lat_specialists"


@dataclass(frozen=True)
class SetTable(Settings):
    """``[protocol.sets.NAME]``: a target, how many of its images are labelled, and sources."""

    target: str = ""
    sources: tuple[str, ...] = ()
    images: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class ArmTable(Settings):
    """``[protocol.arms.NAME]``: what an arm has otherwise than the protocol."""

    specialist: dict[str, Any] = field(default_factory=dict)
    crosslabel: dict[str, Any] = field(default_factory=dict)
    lat: dict[str, Any] = field(default_factory=dict)


def main() -> int:
    args = study_parser(__doc__).parse_args()
    return finished(STEM, lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    """Run what is asked for, and tell of it."""
    catalogue = load_catalogue(config=args.protocol)
    table = catalogue.table("protocol")
    sets = {
        name: settings_from(SetTable, values, where=f"[protocol.sets.{name}]")
        for name, values in chosen(table["sets"], args.sets).items()
    }
    arms = {
        name: settings_from(ArmTable, values, where=f"[protocol.arms.{name}]")
        for name, values in chosen(table["arms"], args.arms).items()
    }
    truth = {k: Path(v) for k, v in table["truth"].items()}
    parts, content = [], {}
    for name, one in sets.items():
        found: dict[str, dict[int, Comparison]] = {arm: {} for arm in arms}
        for seed in chosen_seeds(one.seeds, args.seeds):
            part = _sampled(catalogue, one, seed)
            for arm in arms:
                message(f"{name}, seed {seed}, {arm}")
                folder = args.out / name / f"seed{seed}"
                request = _request(part, one, arm, arms, seed, folder, truth)
                runtime = Runtime(device=args.device)
                found[arm][seed] = compare(part, request, runtime, overwrite=args.overwrite)
        text, content[name] = _told(name, one, found)
        parts.append(text)
    text = "\n".join(parts)
    print(text)
    atomic_write_bytes(args.out / f"{STEM}.md", text.encode("utf-8"))
    atomic_write_json(args.out / f"{STEM}.json", content)


def _sampled(catalogue: Catalogue, one: SetTable, seed: int) -> Catalogue:
    entry = catalogue.get(one.target)
    entry = replace(entry, selection=Selection(sample=one.images, sample_seed=seed))
    return replace(catalogue, entries={**catalogue.entries, one.target: entry})


def _request(
    catalogue: Catalogue,
    one: SetTable,
    arm: str,
    arms: dict[str, ArmTable],
    seed: int,
    folder: Path,
    truth: dict[str, Path],
) -> Request:
    given, own = Given(catalogue), arms[arm]
    same = next(n for n, a in arms.items() if _specialists(a) == _specialists(own))
    return Request(
        target=one.target,
        sources=one.sources,
        arms=(ARMS[LAT],),
        extras=(),
        out=folder / arm,
        align=folder / arm / "align",
        shared=folder / f"specialists_{same}",
        pipeline=PipelineSettings(
            specialist=given.of(
                SpecialistSettings, "specialist", over={**own.specialist, "seed": seed}
            ),
            crosslabel=given.of(CrossLabelSettings, "crosslabel", over=own.crosslabel),
            lat=given.of(LatSettings, "lat", over={**own.lat, "seed": seed}),
            align=given.of(AlignSettings, "align"),
        ),
        detector=detector_settings(given),
        settings=replace(given.of(DownstreamSettings, "downstream"), seeds=(seed,)),
        truth={k: v for k, v in truth.items() if k in one.sources},
    )


def _specialists(arm: ArmTable) -> tuple[dict[str, Any], dict[str, Any]]:
    return arm.specialist, arm.crosslabel


def _told(
    name: str, one: SetTable, found: dict[str, dict[int, Comparison]]
) -> tuple[str, dict[str, Any]]:
    """Tables of a set, and its numbers."""
    labels, detectors, values = [], [], {}
    reference = next(iter(found))
    matches = {
        arm: {seed: c.arms[LAT].matches[seed] for seed, c in by_seed.items()}
        for arm, by_seed in found.items()
    }
    draws = {arm: resampled(of) for arm, of in matches.items()}
    for arm, by_seed in found.items():
        for source in one.sources:
            cells = []
            for key in DIRECT:
                quality = [c.about["direct"][LAT][source][key] for c in by_seed.values()]
                cells.append(mean_percentage(Mean.of(quality)))
            labels.append([arm, source, *cells])
        both = None if arm == reference else paired_intervals(draws[arm], draws[reference])
        test = [
            mean_percentage(Mean.of([c.arms[LAT].values(key)[s] for s, c in by_seed.items()]))
            for key in METRIC_NAMES
        ]
        detectors.append([arm, *test, *(interval_text(i) for i in both or (None,) * 3)])
        values[arm] = {
            "labels": {s: c.about["direct"][LAT] for s, c in by_seed.items()},
            "detector": {s: c.arms[LAT].metrics[s] for s, c in by_seed.items()},
            "minus_first": None if both is None else [i.to_dict() for i in both],
        }
    seeds = ", ".join(str(s) for s in found[reference])
    text = [
        f"## {name}\n",
        f"{one.images} target images; seeds {seeds}. Labels against the truth, percent:\n",
        markdown((["specialists", "source", *DIRECT], labels)),
        "\nDetectors on them, test AP, and the difference to the first row with 95 % bootstrap "
        "intervals over test images:\n",
        markdown((["specialists", *METRIC_NAMES, *(f"Δ {k}" for k in METRIC_NAMES)], detectors)),
    ]
    return "\n".join(text) + "\n", values


if __name__ == "__main__":
    sys.exit(main())
