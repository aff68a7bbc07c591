"""Are errors that were put into labels by hand found again, and does cleanlab find them?

    python benchmarks/check.py benchmarks/protocols/check.toml --out DIR

Every set and seed is a run of `relabel check` on annotations into which a share of errors of six
kinds was put: boxes taken out, of another class, moved, doubled, mirrored and invented. The seed
draws the errors and is that of the trainings. cleanlab's object-detection scores (`pip install
cleanlab`; overlooked, badloc and swap, with their own thresholds) are of the very same predictions.
Finished trainings are never redone, and several processes share the work where their seeds or sets
differ. Prints recall at precision 0.5 and 0.8 and the AP of the rankings, with paired bootstrap
intervals over photos, and writes the same to ``check.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _errors_put_in import KINDS, PutIn, put_errors_in
from _found_again import NOT_COUNTED, NUMBERS, WRONG, Ranking
from _studies import chosen, chosen_seeds, finished, study_parser
from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]

from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.dataset import DetectionDataset
from relabel.detectors.settings import SpecialistSettings
from relabel.evaluation.resampling import resamples
from relabel.evaluation.tables import markdown
from relabel.geometry import iou_matrix
from relabel.settings import Runtime, Settings, settings_from
from relabel.suspects.evidence import Evidence, gather_evidence
from relabel.suspects.job import CheckJob
from relabel.suspects.score import (
    BADLY_PLACED,
    CLASS,
    DUPLICATE,
    MIRRORED,
    MISSING,
    SPURIOUS,
    Suspects,
    find_suspects,
)
from relabel.suspects.settings import CheckPipeline, CheckSettings
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json
from relabel.workspace.progress import message

STEM = "check"
ALL = "all"
# The kinds that cleanlab has scores for.
SHARED, SHARED_KINDS = "missing, class, place", KINDS[:3]
OURS, PREDICTIONS, CLEANLAB, LOWER = (
    "check",
    "check, predictions alone",
    "cleanlab",
    "cleanlab, 0.5",
)
METHODS = (OURS, PREDICTIONS, CLEANLAB, LOWER)
_OF = dict(zip(KINDS, (MISSING, CLASS, BADLY_PLACED, DUPLICATE, MIRRORED, SPURIOUS), strict=True))
# What stands in for a score that cleanlab does not have.
_BY_CLEANLAB = {
    "missing": "overlooked",
    "class": "swap",
    "place": "badloc",
    "mirrored": "badloc",
    "spurious": "badloc",
}
_ON_OBJECT = 0.5


@dataclass(frozen=True)
class SetTable(Settings):
    """``[protocol.sets.NAME]``: whose labels, the share of each kind of error, and seeds."""

    dataset: str = ""
    share: float = 0.03
    seeds: tuple[int, ...] = (0, 1, 2)


def main() -> int:
    parser = study_parser(__doc__)
    args = parser.parse_args()
    return finished(STEM, lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    """Run what is asked for, and tell of it."""
    catalogue = load_catalogue(config=args.protocol)
    sets = {
        name: settings_from(SetTable, values, where=f"[protocol.sets.{name}]")
        for name, values in chosen(catalogue.table("protocol")["sets"], args.sets).items()
    }
    parts, content = [], {}
    detectors = (args.arms or "faster-rcnn").split(",")
    for name, one in sets.items():
        for detector in detectors:
            found: dict[tuple[str, str], list[Ranking]] = {}
            images = 0
            seeds = chosen_seeds(one.seeds, args.seeds)
            for seed in seeds:
                message(f"{name}, seed {seed}, {detector}")
                job, errors = _job(catalogue, one, seed, detector, args.out / name, args)
                job.run(job.result.needs)
                images = len(job.dataset)
                for key, ranking in _rankings(job, errors).items():
                    found.setdefault(key, []).append(ranking)
            text, numbers = _told(name, detector, seeds, found, images)
            parts.append(text)
            content.setdefault(name, {})[detector] = numbers
    text = "\n".join(parts)
    print(text)
    atomic_write_bytes(args.out / f"{STEM}.md", text.encode("utf-8"))
    atomic_write_json(args.out / f"{STEM}.json", content, indent=1)


def _job(
    catalogue: Catalogue,
    one: SetTable,
    seed: int,
    detector: str,
    out: Path,
    args: argparse.Namespace,
) -> tuple[CheckJob, PutIn]:
    given = Given(catalogue)
    wrong, errors = put_errors_in(catalogue.get(one.dataset).read("train"), one.share, seed)
    own = {"seed": seed, "detector": detector}
    settings = CheckPipeline(
        check=given.of(CheckSettings, "check"),
        specialist=given.of(SpecialistSettings, "specialist", over=own),
        crosslabel=given.of(CrossLabelSettings, "crosslabel"),
    )
    folder = out / f"seed{seed}" / detector
    return CheckJob(wrong, folder, settings, Runtime(device=args.device, quiet=True)), errors


def _rankings(job: CheckJob, errors: PutIn) -> dict[tuple[str, str], Ranking]:
    """By method and kind, and for all kinds together."""
    data = job.dataset
    predictions, heads = job.read_predictions()
    found = {}
    for method, given in ((OURS, heads), (PREDICTIONS, None)):
        evidence = gather_evidence(data, predictions, given)
        suspects = find_suspects(evidence, data.space.class_names)
        found |= {(method, kind): r for kind, r in _ours(data, suspects, errors).items()}
    evidence = gather_evidence(data, predictions)
    for method, high in ((CLEANLAB, None), (LOWER, 0.5)):
        scores = _cleanlab(data, evidence, high)
        found |= {(method, k): r for k, r in _theirs(data, evidence, scores, errors).items()}
    return found


def _ours(data: DetectionDataset, suspects: Suspects, errors: PutIn) -> dict[str, Ranking]:
    ids = np.where(suspects.annotation >= 0, data.boxes.id[suspects.annotation], -1)
    named = np.array(
        [
            _named(errors, int(image), int(id), box)
            for image, id, box in zip(suspects.image, ids, suspects.box, strict=True)
        ],
        np.int64,
    )
    kinds = np.array(suspects.kind, object)
    found = {ALL: _ranking(suspects.score, suspects.image, named, errors)}
    shared = np.isin(kinds, [_OF[kind] for kind in SHARED_KINDS])
    found[SHARED] = _ranking(
        suspects.score[shared], suspects.image[shared], named[shared], errors, SHARED_KINDS
    )
    for kind, name in _OF.items():
        mine = kinds == name
        found[kind] = _ranking(
            suspects.score[mine], suspects.image[mine], named[mine], errors, (kind,)
        )
    return found


def _named(errors: PutIn, image: int, id: int, box: np.ndarray) -> int:
    """The error that a suspect names, or `WRONG`: by annotation, or by where an object lies."""
    of_image = np.flatnonzero(errors.image == image)
    if id >= 0:
        hit = of_image[(errors.id[of_image] == id) | (errors.twin[of_image] == id)]
        return int(hit[0]) if len(hit) else WRONG
    unseen = [e for e in of_image.tolist() if errors.kind[e] in ("missing", "place", "mirrored")]
    if not unseen:
        return WRONG
    iou = iou_matrix(box[None], errors.before[unseen])[0]
    return unseen[int(iou.argmax())] if iou.max() >= _ON_OBJECT else WRONG


def _ranking(
    score: np.ndarray,
    image: np.ndarray,
    named: np.ndarray,
    errors: PutIn,
    kinds: Sequence[str] = KINDS,
) -> Ranking:
    of_kind = np.flatnonzero([kind in kinds for kind in errors.kind])
    place = np.full(len(errors) + 1, NOT_COUNTED)
    place[of_kind], place[-1] = np.arange(len(of_kind)), WRONG
    return Ranking(score, image.astype(np.int64), place[named], errors.image[of_kind])


def _cleanlab(
    data: DetectionDataset, evidence: Evidence, high: float | None
) -> Mapping[str, np.ndarray]:
    """cleanlab's scores, low where something is wrong: of predictions, and twice of annotations."""
    from cleanlab.object_detection import rank  # pyright: ignore[reportMissingImports]

    labels, predictions, which = [], [], []
    for image in range(len(data)):
        own = evidence.image == image
        labels.append({"bboxes": evidence.box[own], "labels": evidence.category[own]})
        found = np.flatnonzero(evidence.found_image == image)
        rows = [found[evidence.found_category[found] == c] for c in range(data.space.num_classes)]
        which.append(np.concatenate(rows))
        scored = np.concatenate([evidence.found_box, evidence.found_score[:, None]], axis=1)
        predictions.append([scored[r] for r in rows])
    given: dict[str, Any] = {"labels": labels, "predictions": predictions}
    more: dict[str, Any] = {} if high is None else {"high_probability_threshold": high}
    overlooked = np.full(len(evidence.found_image), np.nan)
    scores = rank.compute_overlooked_box_scores(**given, **more)
    overlooked[np.concatenate(which)] = np.concatenate(scores)
    return {
        "overlooked": overlooked,
        "badloc": np.concatenate(rank.compute_badloc_box_scores(**given)),
        "swap": np.concatenate(rank.compute_swap_box_scores(**given, **more)),
    }


def _theirs(
    data: DetectionDataset, evidence: Evidence, scores: Mapping[str, np.ndarray], errors: PutIn
) -> dict[str, Ranking]:
    ids = data.boxes.id[evidence.rows]
    of_label = np.array(
        [
            _named(errors, int(i), int(id), np.full(4, np.nan))
            for i, id in zip(evidence.image, ids, strict=True)
        ],
        np.int64,
    )
    told = np.flatnonzero(~np.isnan(scores["overlooked"]))
    of_found = np.array(
        [_named(errors, int(evidence.found_image[k]), -1, evidence.found_box[k]) for k in told],
        np.int64,
    )
    worst = np.minimum(scores["badloc"], scores["swap"])
    every = (
        -np.concatenate([scores["overlooked"][told], worst]),
        np.concatenate([evidence.found_image[told], evidence.image]),
        np.concatenate([of_found, of_label]),
        errors,
    )
    found = {ALL: _ranking(*every), SHARED: _ranking(*every, SHARED_KINDS)}
    for kind, name in _BY_CLEANLAB.items():
        if name == "overlooked":
            of = evidence.found_image[told]
            found[kind] = _ranking(-scores[name][told], of, of_found, errors, (kind,))
        else:
            found[kind] = _ranking(-scores[name], evidence.image, of_label, errors, (kind,))
    return found


def _told(
    name: str,
    detector: str,
    seeds: list[int],
    found: Mapping[tuple[str, str], list[Ranking]],
    images: int,
) -> tuple[str, dict[str, Any]]:
    """The table of a set, and its numbers."""
    draws = np.concatenate([np.ones((1, images), np.int64), resamples(images)])
    rows, numbers = [], {}
    for kind in (ALL, SHARED, *KINDS):
        values = {
            method: Ranking.join(found[method, kind]).numbers(draws)
            for method in METHODS
            if (method, kind) in found
        }
        count = sum(len(r.errors) for r in found[OURS, kind])
        for method, value in values.items():
            cells = [f"{100 * v:.0f}" for v in value[0]]
            numbers[f"{kind}, {method}"] = dict(zip(NUMBERS, value[0].tolist(), strict=True))
            gap = "-"
            if method in (OURS, PREDICTIONS) and CLEANLAB in values:
                theirs = max((CLEANLAB, LOWER), key=lambda m: values[m][0, 0])
                difference = 100 * (value[:, 0] - values[theirs][:, 0])
                low, high = np.percentile(difference[1:], [2.5, 97.5])
                star = " *" if low > 0 or high < 0 else ""
                gap = f"{difference[0]:+.0f} ({low:+.0f} to {high:+.0f}){star}"
                numbers[f"{kind}, {method}"]["minus cleanlab"] = [difference[0], low, high]
            rows.append([kind if method == OURS else "", str(count), method, *cells, gap])
    text = [
        f"## {name}, {detector}\n",
        f"{images} photos; seeds {', '.join(map(str, seeds))}, pooled.\n",
        markdown((["kind", "errors", "by", *NUMBERS, "Δ AP to cleanlab"], rows)),
    ]
    return "\n".join(text) + "\n", numbers


if __name__ == "__main__":
    sys.exit(main())
