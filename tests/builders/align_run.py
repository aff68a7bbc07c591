"""A finished align workspace over the tiny world of transfer, without having run align.

Its manifests are those of align; the pseudo-labels are handed out by `read_labels`, which stands
where shards would be read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.formats.registry import write_dataset
from relabel.lat.folds import folds
from relabel.workspace.stage import Stage
from tests.builders.blocks import World, make_world, tiny_backbone

FOLDS = 2


CUT = {"fold_stretches": 3, "fold_gap": 5}


def finish(name: str, folder: Path, inputs: dict[str, str]) -> str:
    stage = Stage(name, folder, settings=CUT if name == "LAT" else {}, inputs=inputs)
    stage.begin()
    (folder / "output").write_text(name)
    stage.finish({"output": "output"})
    return stage.fingerprint


class Workspace:
    """``root`` holds relabel.toml, the datasets and ``run``, the align workspace."""

    def __init__(self, root: Path, images: int = 12) -> None:
        self.root, self.run = root, root / "run"
        self.world: World = make_world(root / "photos", images=images)
        backbone = tiny_backbone(root / "backbone")
        lines = []
        for dataset in (self.world.target, self.world.source):
            write_dataset(dataset, "coco", root / f"{dataset.name}.json")
            lines.append(
                f'[datasets.{dataset.name}]\nformat = "coco"\nroot = "photos/{dataset.name}"\n'
                f'train = "../../{dataset.name}.json"\n'
            )
        lines.append(
            f'[lat]\nbackbone = "{backbone}"\nimage_size = 96\nsteps = 3\nbatch_size = 4\n'
            'channels = 16\nfeature_channels = 4\nprecision = "fp32"\n'
        )
        (root / "relabel.toml").write_text("\n".join(lines))
        self.make_run()

    def make_run(self) -> None:
        from relabel.catalogue.catalogue import load_catalogue

        catalogue = load_catalogue(self.root / "relabel.toml")
        data = {
            f"data {name}": dataset_fingerprint(catalogue.get(name).read("train"))
            for name in ("tight", "loose")
        }
        labels = self.run / "2_crosslabels"
        for name in ("loose_on_tight", "tight_on_loose"):
            finish(f"labels {name}", labels / name, data)
        for fold in range(FOLDS):
            (labels / "tight_on_tight" / f"fold{fold}").mkdir(parents=True)
        # The folds' folders are there already, as they are when a stage is resumed.
        stage = Stage("held out", labels / "tight_on_tight", settings={}, inputs=data)
        stage._write("running")
        stage.finish({})
        finish("LAT", self.run / "3_lat", data)

    def read_labels(self, path: Path) -> PseudoLabels:
        name = path.name if path.parent.name == "2_crosslabels" else path.parent.name
        by, on = name.split("_on_")
        found = self.world.labels[by, on]
        if path.parent.name == "2_crosslabels":
            return found
        number = int(path.name.removeprefix("fold"))
        held = folds(self.world.target, FOLDS)[number].held_out
        covered = np.zeros(len(found.file_name), bool)
        covered[held] = True
        return replace(found.take(np.isin(found.image, held)), covered=covered)
