"""Which labels teach a detector more? Measured on held-back thirds of the target's training images.

    python benchmarks/held_back.py benchmarks/protocols/tollroad.toml --target fine --size small \\
        --labels sets=DIR/fine/faster-rcnn/standard/labels/lat --labels one=DIR2/... --out DIR3

Settings are chosen on this, not on test images. Each folder of ``--labels`` holds a COCO file per
source in the target's label space, such as a downstream comparison keeps of every arm. A detector
with the settings of the protocol learns from them and from the target's other images; those next
to a held-back stretch of video are left out.

``--batches halves,random,random+tail`` compares ways of mixing target and sources in a batch in the
same way: half of every batch the target's, even draws from all images, and these followed by the
target alone. The protocol's own mixture is ``own``.

The target's specialist and LAT behind the labels have seen the held-back images, though not their
detector. That is the same for all labels compared here, so that they can be compared with each
other, but not with the target alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from _studies import finished
from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]
from relabel.commands.evaluate_downstream import (  # pyright: ignore[reportMissingImports]
    detector_settings,
)

from relabel.align.inputs import read_training_set
from relabel.catalogue.catalogue import load_catalogue
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.formats.coco import read as coco
from relabel.detectors.specialist import MAPS
from relabel.errors import ConfigError, Problems, did_you_mean
from relabel.lat.folds import folds
from relabel.settings import Runtime, settings_dict
from relabel.studies.downstream.protocol import with_size
from relabel.studies.downstream.results import METRICS
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.studies.downstream.train import train_arm
from relabel.training.loop import total_steps
from relabel.workspace.stage import Stage

FOLDS, STRETCHES, GAP = 3, 3, 5
# Share of the target in mixed batches, and of the iterations that see the target alone.
BATCHES = {"halves": (0.5, 0.0), "random": (0.0, 0.0), "random+tail": (0.0, 0.25)}
OWN = "own"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("protocol", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--size")
    parser.add_argument("--labels", action="append", required=True, metavar="NAME=FOLDER")
    known = ", ".join((OWN, *BATCHES))
    parser.add_argument("--batches", default=OWN, help=f"mixtures, with commas: {known}")
    parser.add_argument("--folds", default="0,1,2", help="which of the three, with commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--overwrite", action="store_true", help="redo what other labels made")
    args = parser.parse_args()
    return finished("held_back", lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    catalogue = load_catalogue(config=args.protocol)
    if args.size:
        catalogue = with_size(catalogue, args.size)
    runtime = Runtime(device=args.device)
    given = Given(catalogue)
    settings = given.of(DownstreamSettings, "downstream")
    detector = detector_settings(given, detector="faster-rcnn").resolved()
    mixtures = mixtures_of(args.batches, settings)
    whole = read_training_set(catalogue.get(args.target), args.out, runtime, Problems())
    parts = folds(whole, FOLDS, stretches=STRETCHES, gap=GAP)
    numbers = args.folds.split(",")
    if not set(numbers) <= set(map(str, range(FOLDS))):
        raise ConfigError(f"--folds {args.folds}", remedy=f"Use numbers from 0 to {FOLDS - 1}.")
    rows = {}
    for given in args.labels:
        name, _, folder = given.partition("=")
        files = sorted(Path(folder).glob("*.json")) if folder else []
        if not name or not files:
            raise ConfigError(
                f"--labels {given}: no COCO files there", remedy="Use NAME=FOLDER of *.json files."
            )
        sources = {
            file.stem: coco.read(
                file, name=file.stem, split=None, problems=Problems(), space=whole.space
            )
            for file in files
        }
        inputs = {n: dataset_fingerprint(d) for n, d in {"target": whole, **sources}.items()}
        for fold, (mixture, mixed) in product(map(int, numbers), mixtures.items()):
            rest = whole.subset(parts[fold].rest)
            images = len(rest) + sum(map(len, sources.values()))
            trained = replace(detector, steps=total_steps(detector, images))
            out = args.out / name / (f"fold{fold}" if mixture == OWN else f"{mixture}/fold{fold}")
            stage = Stage(
                f"{name}, {mixture} batches, fold {fold}",
                out,
                settings={
                    **settings_dict(trained),
                    **mixed.result_dict(),
                    "fold": [fold, FOLDS, STRETCHES, GAP],
                },
                inputs=inputs,
            )
            work = partial(
                train_arm,
                "labels",
                rest,
                sources,
                whole.subset(parts[fold].held_out),
                out,
                trained,
                mixed,
                runtime,
                f"Training on {name}, {mixture} batches, fold {fold} held back",
                maps=args.out / MAPS,
            )
            stage.run(work, overwrite=args.overwrite)
            found = json.loads((out / METRICS).read_text(encoding="utf-8"))
            rows[name, mixture, fold] = [100 * found[k] for k in ("AP", "AP50", "AP75")]
    print("| labels | batches | fold | AP | AP50 | AP75 |\n|---|---|---:|---:|---:|---:|")
    for (*names, fold), values in rows.items():
        print(row_of([*names, fold], values))
    for names in dict.fromkeys(key[:2] for key in rows):
        mean = np.mean([v for key, v in rows.items() if key[:2] == names], axis=0)
        print(row_of([*names, "mean"], mean))


def mixtures_of(names: str, settings: DownstreamSettings) -> dict[str, DownstreamSettings]:
    """The settings with each of the mixtures asked for.

    Raises:
        ConfigError: an unknown name.
    """
    found = {}
    for name in dict.fromkeys(names.split(",")):
        if name == OWN:
            found[name] = settings
        elif name in BATCHES:
            share, last = BATCHES[name]
            found[name] = replace(settings, target_share=share, target_only_last=last)
        else:
            raise ConfigError(f"--batches {name}", remedy=did_you_mean(name, (OWN, *BATCHES)))
    return found


def row_of(cells: Sequence[object], values: Sequence[float]) -> str:
    """A line of the table."""
    return "| " + " | ".join([*map(str, cells), *(f"{v:.1f}" for v in values)]) + " |"


if __name__ == "__main__":
    sys.exit(main())
