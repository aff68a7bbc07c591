"""What do images without labels bring a specialist, and which part of the recipe how much?

    python benchmarks/semi_supervised.py benchmarks/protocols/semi_supervised.toml --out DIR

Every set, arm and seed is a training; finished ones are never redone, and several processes with
the same command share the work. An arm has the settings of the protocol and its own; the test
images and, seed by seed, the labelled images are the same for all arms. Prints AP with paired
bootstrap intervals, AP over IoU, AP of the rarest classes and the rank correlation of confidences
with the true IoU, and writes the same to ``semi_supervised.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _studies import chosen, chosen_seeds, finished, study_parser
from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]

from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.pixels.batches import ImageBatches
from relabel.detectors.base import Detections, Detector
from relabel.detectors.load import load_detector
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.semi.train import PSEUDO_BOXES, train_semi_supervised
from relabel.detectors.settings import SpecialistSettings
from relabel.detectors.specialist import MAPS, train_specialist
from relabel.errors import Problems
from relabel.evaluation.detector import evaluate_detector
from relabel.evaluation.pseudo_labels import spearman
from relabel.evaluation.resampling import Matches, ap_by_iou, match_detections
from relabel.evaluation.tables import markdown, percentage
from relabel.geometry import iou_matrix
from relabel.settings import Runtime, Settings, settings_dict, settings_from
from relabel.studies.downstream.intervals import interval_text, paired_intervals, resampled
from relabel.workspace.atomic import atomic_write_bytes, atomic_write_json
from relabel.workspace.pipeline import Pipeline
from relabel.workspace.stage import Stage

MATCHES, METRICS = "matches.npz", "metrics.json"
STEM = "semi_supervised"
RARE = 2
MIN_SCORE = 0.05
CONFIDENCES = ("score", "quality", "product", "geometric")


@dataclass(frozen=True)
class SetTable(Settings):
    """``[protocol.sets.NAME]``: which images are labelled, and which are there beside them.

    ``specialist`` and ``semi`` are what all its arms have otherwise than the protocol.
    """

    labelled: str = ""
    unlabelled: tuple[str, ...] = ()
    rest: bool = False
    images: float = 1.0
    seeds: tuple[int, ...] = (0, 1, 2)
    specialist: dict[str, Any] = field(default_factory=dict)
    semi: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Subject:
    """A set of one seed."""

    labelled: DetectionDataset
    unlabelled: Mapping[str, DetectionDataset]
    test: DetectionDataset


def main() -> int:
    parser = study_parser(__doc__)
    parser.add_argument("--held-back", type=float, help="share of the labelled images that tests")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    args = parser.parse_args()
    return finished(STEM, lambda: Study(args).run())


class Study:
    """The trainings that the command line asks for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.catalogue: Catalogue = load_catalogue(config=args.protocol)
        self.given = Given(self.catalogue, ("specialist", "semi"), assignments=args.set)
        table = self.catalogue.table("protocol")
        self.sets = {
            name: settings_from(SetTable, values, where=f"[protocol.sets.{name}]")
            for name, values in chosen(table["sets"], args.sets).items()
        }
        self.arms = chosen(table["arms"], args.arms)
        self.runtime = Runtime(device=args.device, quiet=True)
        self.job = Pipeline(args.out, log=f"{STEM}.log", quiet=False)
        self.subjects: dict[tuple[str, int], Subject] = {}

    def run(self) -> None:
        self.train()
        self.tell()

    def seeds(self, name: str) -> list[int]:
        return chosen_seeds(self.sets[name].seeds, self.args.seeds)

    def subject(self, name: str, seed: int) -> Subject:
        if (name, seed) not in self.subjects:
            self.subjects[name, seed] = self._read(self.sets[name], seed)
        return self.subjects[name, seed]

    def _read(self, table: SetTable, seed: int) -> Subject:
        entry = self.catalogue.get(table.labelled)
        whole = entry.read("train", problems=Problems())
        rng = np.random.default_rng([seed, len(whole)])
        order = rng.permutation(len(whole))
        if self.args.held_back:
            out = round(self.args.held_back * len(whole))
            test, order = whole.subset(np.sort(order[:out])), order[out:]
        else:
            test = entry.read("test", problems=Problems())
        share = table.images
        count = round(share * len(whole)) if share < 1 else int(share)
        labelled, rest = np.sort(order[:count]), np.sort(order[count:])
        others = {n: self.catalogue.get(n).read("train") for n in table.unlabelled}
        if table.rest:
            others["rest"] = whole.subset(rest)
        return Subject(whole.subset(labelled), others, test)

    def settings(
        self, name: str, arm: str, seed: int
    ) -> tuple[SpecialistSettings, SemiSettings | None]:
        table, own = self.sets[name], self.arms[arm]
        over = {**table.specialist, **own.get("specialist", {})}
        detector = self.given.of(SpecialistSettings, "specialist", over=over)
        detector = replace(detector.resolved(), seed=seed)
        if "semi" not in own:
            return detector, None
        return detector, self.given.of(SemiSettings, "semi", over={**table.semi, **own["semi"]})

    def folder(self, name: str, arm: str, seed: int) -> Path:
        return self.args.out / name / arm / f"seed{seed}"

    def train(self) -> None:
        """Seed by seed, so that a run that is cut off leaves whole seeds."""
        every = sorted({s for name in self.sets for s in self.seeds(name)})
        for seed in every:
            for name in self.sets:
                if seed not in self.seeds(name):
                    continue
                for arm in self.arms:
                    self.job.add(self._stage(name, arm, seed))
        self.job.run(overwrite=self.args.overwrite, busy="wait")

    def _stage(self, name: str, arm: str, seed: int) -> Stage:
        subject = self.subject(name, seed)
        detector, semi = self.settings(name, arm, seed)
        values: dict[str, Any] = {"detector": detector.result_dict()}
        inputs = {"labelled": subject.labelled, "test": subject.test}
        prints = {k: dataset_fingerprint(d) for k, d in inputs.items()}
        if semi is not None:
            values["semi"] = settings_dict(semi)
            prints |= {
                f"unlabelled {k}": dataset_fingerprint(d, boxes=False)
                for k, d in subject.unlabelled.items()
            }
        return Stage(
            f"{name}, {arm}, seed {seed}",
            self.folder(name, arm, seed),
            settings=values,
            inputs=prints,
            work=partial(self._train_one, subject=subject, detector=detector, semi=semi),
        )

    def _train_one(
        self,
        stage: Stage,
        *,
        subject: Subject,
        detector: SpecialistSettings,
        semi: SemiSettings | None,
    ) -> None:
        maps = self.args.out / MAPS if detector.keeps_maps else None
        out, runtime = stage.folder, self.runtime
        if semi is None:
            train_specialist(subject.labelled, out, detector, runtime, maps=maps)
        else:
            train_semi_supervised(
                subject.labelled, subject.unlabelled, out, detector, semi, runtime, maps=maps
            )
        found = load_detector(out, runtime.device)
        metrics = evaluate_detector(found, subject.test, runtime, maps=maps)
        assert metrics.found is not None
        match_detections(subject.test, metrics.found).save(out / MATCHES)
        numbers = metrics.to_dict()
        numbers["spearman"] = correlations(found, subject.test, runtime)
        if semi is not None:
            numbers["pseudo_boxes"] = json.loads((out / PSEUDO_BOXES).read_text("utf-8"))
        atomic_write_json(out / METRICS, numbers)

    def tell(self) -> None:
        """Print the tables and write them."""
        parts, content = [], {}
        for name in self.sets:
            text, values = self._table(name)
            parts.append(text)
            content[name] = values
        text = "\n".join(parts)
        print(text)
        atomic_write_bytes(self.args.out / f"{STEM}.md", text.encode("utf-8"))
        atomic_write_json(self.args.out / f"{STEM}.json", content)

    def _table(self, name: str) -> tuple[str, dict[str, Any]]:
        seeds = self.seeds(name)
        found = {
            arm: {
                seed: json.loads((self.folder(name, arm, seed) / METRICS).read_text("utf-8"))
                for seed in seeds
            }
            for arm in self.arms
        }
        matches = {
            arm: {s: Matches.load(self.folder(name, arm, s) / MATCHES) for s in seeds}
            for arm in self.arms
        }
        draws = {arm: resampled(of) for arm, of in matches.items()}
        by_iou = {arm: {s: ap_by_iou(m) for s, m in of.items()} for arm, of in matches.items()}
        subject = self.subject(name, seeds[0])
        rare = rarest(subject.test)
        header = ["arm", "AP", "AP50", "AP75", "rare AP", "ρ p", "ρ v", "ρ p·v"]
        rows = []
        for arm, by_seed in found.items():
            means = [_mean_sd([m[k] for m in by_seed.values()]) for k in ("AP", "AP50", "AP75")]
            rows.append(
                [
                    arm,
                    *means,
                    _mean_sd(
                        [
                            float(np.mean([m["per_class"][c] for c in rare]))
                            for m in by_seed.values()
                        ]
                    ),
                    *(
                        _mean([m["spearman"][k] for m in by_seed.values()])
                        for k in ("score", "quality", "product")
                    ),
                ]
            )
        others = ", ".join(f"{len(d)} of {n}" for n, d in subject.unlabelled.items())
        over = [
            [arm, *(percentage(float(v)) for v in np.mean(list(at.values()), axis=0))]
            for arm, at in by_iou.items()
        ]
        text = [
            f"## {name}\n",
            f"{len(subject.labelled)} labelled images, unlabelled {others}; "
            f"{len(subject.test)} test images; seeds {', '.join(map(str, seeds))}. Rare: "
            f"{', '.join(rare)}.\n",
            markdown((header, rows)),
        ]
        text.append("\nAP over the IoU that a box needs:\n")
        text.append(markdown((["arm", *(f"{t / 100:.2f}" for t in range(50, 100, 5))], over)))
        values: dict[str, Any] = {"arms": found, "intervals": {}}
        for reference in ("supervised", "pseudo"):
            if reference not in found:
                continue
            lines = []
            for arm in found:
                if arm == reference:
                    continue
                both = paired_intervals(draws[arm], draws[reference])
                lines.append([arm, *(interval_text(i) for i in both or (None,) * 3)])
                if both is not None:
                    values["intervals"].setdefault(reference, {})[arm] = [i.to_dict() for i in both]
            text.append(f"\nMinus {reference}, percent, with 95 % bootstrap intervals:\n")
            text.append(markdown((["arm", "AP", "AP50", "AP75"], lines)))
        return "\n".join(text) + "\n", values


def correlations(found: Detector, test: DetectionDataset, runtime: Runtime) -> dict[str, float]:
    """Spearman's rank correlation of each confidence with the true IoU, over test detections.

    Of every detection whose best class scores at least `MIN_SCORE`, after class-wise NMS by the
    detector's own ranking; its IoU is the largest with a true box of its class, 0 for none.
    """
    from relabel.crosslabel.nms import select
    from relabel.crosslabel.settings import CrossLabelSettings
    from relabel.detectors.base import ranked

    settings = CrossLabelSettings(min_score=MIN_SCORE)
    columns: dict[str, list[np.ndarray]] = {k: [] for k in (*CONFIDENCES, "iou")}
    with ImageBatches(test, batch_size=8, workers=runtime.workers) as batches:
        for rows, images in batches:
            for row, image, raw in zip(rows, images, found.predict(images), strict=True):
                kept: Detections = select(
                    raw,
                    settings,
                    num_classes=test.space.num_classes,
                    width=image.shape[1],
                    height=image.shape[0],
                    source="test",
                )
                truth = test.objects(int(row))
                classes = kept.scores.argmax(axis=1)
                same = classes[:, None] == test.boxes.category[truth][None]
                overlap = iou_matrix(kept.boxes, test.boxes.xyxy[truth].astype(np.float32)) * same
                columns["iou"].append(overlap.max(axis=1, initial=0.0))
                score = kept.scores.max(axis=1, initial=0.0)
                for name in CONFIDENCES:
                    columns[name].append(ranked(score, kept.quality, name))
    iou = np.concatenate(columns.pop("iou"))
    return {k: round(spearman(np.concatenate(v), iou) or 0.0, 4) for k, v in columns.items()}


def rarest(test: DetectionDataset) -> list[str]:
    """The classes with the fewest test boxes, of those that have any."""
    boxes = test.boxes
    counts = np.bincount(boxes.category[~boxes.ignore], minlength=test.space.num_classes)
    names = test.space.class_names
    return [names[c] for c in np.argsort(counts, kind="stable") if counts[c]][:RARE]


def _mean_sd(values: Sequence[float]) -> str:
    spread = f" ± {percentage(float(np.std(values, ddof=1)))}" if len(values) > 1 else ""
    return percentage(float(np.mean(values))) + spread


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}"


if __name__ == "__main__":
    sys.exit(main())
