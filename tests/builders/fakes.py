"""Stand-ins for the models of align: the same interfaces, no torch, exact results in no time.

A fake specialist "finds" every annotated box of a dataset by its colour-free position: it shifts
the boxes by its own offset. Each step counts its calls in a file, and can be slowed down so that a
test can kill the process in the middle. Steps write their files piecemeal, as real ones do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.removed import Removed


def _wait() -> None:
    time.sleep(float(os.environ.get("FAKE_DELAY", "0")))


def _called(what: str) -> None:
    log = os.environ.get("FAKE_LOG")
    if log:
        with Path(log).open("a") as stream:
            stream.write(what + "\n")
    _wait()


def train_specialist(
    train: DetectionDataset,
    out: Path,
    settings: Any,
    runtime: Any,
    *,
    validate: Any = None,
    maps: Path | None = None,
) -> Path:
    _called(f"train {train.name} {len(train)}")
    for step in range(3):
        part = out / f"step{step}"
        if not part.exists():
            _wait()
            part.write_text(f"{train.name} {settings.seed}")
    config = {"name": train.name, "space": train.space.to_dict(), "images": len(train)}
    (out / "config.json").write_text(json.dumps(config))
    return out


class EnsembleDetector:
    def __init__(self, checkpoints: list[Path]) -> None:
        self.checkpoints = checkpoints

    @classmethod
    def load(cls, checkpoints: list[Path], device: str) -> EnsembleDetector:
        assert all((folder / "config.json").is_file() for folder in checkpoints)
        return cls(checkpoints)


def cross_label(
    checkpoint: Path,
    dataset: DetectionDataset,
    out: Path,
    settings: Any,
    runtime: Any,
    *,
    image_rows: np.ndarray | None = None,
    load: Callable[[str], EnsembleDetector] | None = None,
    model: str | None = None,
    maps: Path | None = None,
) -> None:
    assert maps is not None  # the folder that train_specialist got
    config = json.loads((checkpoint / "config.json").read_text())
    together = ""
    if load is not None:
        detector = load("cpu")
        assert model and detector.checkpoints[0] == checkpoint
        together = f" and {len(detector.checkpoints) - 1} more"
    _called(f"label {dataset.name} by {config['name']}{together}")
    out.mkdir(parents=True, exist_ok=True)
    rows = range(len(dataset)) if image_rows is None else image_rows.tolist()
    labels = {"space": config["space"], "by": config["name"], "on": dataset.name}
    labels |= {"files": list(dataset.images.file_name), "rows": [int(r) for r in rows]}
    _wait()
    (out / "labels.json").write_text(json.dumps(labels))


def cross_label_sam3(
    space: LabelSpace,
    dataset: DetectionDataset,
    out: Path,
    settings: Any,
    runtime: Any,
    *,
    sam3: Any,
) -> None:
    _called(f"label {dataset.name} by sam3 as {space.name}")
    labels = {"space": space.to_dict(), "by": "sam3", "on": dataset.name}
    labels |= {"files": list(dataset.images.file_name), "rows": list(range(len(dataset)))}
    (out / "labels.json").write_text(json.dumps(labels))


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """One box per covered image, of the first class, score 0.9."""
    data = json.loads((path / "labels.json").read_text())
    space = LabelSpace.from_dict(data["space"])
    n = len(data["rows"])
    scores = np.zeros((n, space.num_classes), np.float32)
    scores[:, 0] = 0.9
    covered = np.zeros(len(data["files"]), bool)
    covered[data["rows"]] = True
    return PseudoLabels(
        space,
        data["by"],
        data["on"],
        data["files"],
        np.sort(np.array(data["rows"], np.int32)),
        np.tile(np.array([1, 2, 11, 12], np.float32), (n, 1)),
        scores,
        covered,
    )


def train_lat(
    datasets: dict[str, DetectionDataset],
    labels: dict[tuple[str, str], PseudoLabels],
    target: str,
    out: Path,
    settings: Any,
    runtime: Any,
    *,
    specialists: dict[str, Path],
    prompted_detectors: dict[str, LabelSpace],
) -> Path:
    _called(f"lat {target}")
    assert set(specialists) == set(datasets)
    seen = sorted(f"{by} on {on}: {int(p.coverage.sum())}" for (by, on), p in labels.items())
    spaces = {name: space.class_names for name, space in prompted_detectors.items()}
    about = {"target": target, "labels": seen, "prompted_detectors": spaces}
    (out / "lat.json").write_text(json.dumps(about))
    names = datasets[target].space.to_dict()
    (out / "space.json").write_text(json.dumps(names))
    return out


def transfer(
    model: Path,
    source: DetectionDataset,
    labels: dict[str, PseudoLabels],
    out: Path,
    runtime: Any,
    **options: Any,
) -> tuple[DetectionDataset, Removed]:
    """Every box grows by one pixel to the right and becomes the target's first class."""
    _called(f"transfer {source.name} with {','.join(sorted(labels))}")
    space = LabelSpace.from_dict(json.loads((model / "space.json").read_text()))
    n = len(source.boxes)
    xywh = source.boxes.xywh + np.array([0, 0, 1, 0])
    names = source.space.names
    boxes = make_boxes(
        source.boxes.image,
        xywh,
        np.zeros(n, np.int32),
        score=np.linspace(0.5, 1, n),
        provenance=Provenance(
            source.name,
            ["source"] * n,
            source.boxes.id,
            [names[c] for c in source.boxes.category],
            np.full(n, 8 / 9, np.float32),
        ),
    )
    return source.with_boxes(boxes, space), Removed.none()


def announcement(plan: Any, known: Any = None) -> str:
    """A minute for every stage."""
    plan.expected = dict.fromkeys(plan.stages, 60.0)
    return f"about {len(plan.to_run())} minutes"


FAKES = {
    "relabel.detectors.specialist": train_specialist,
    "relabel.crosslabel.label": cross_label,
    "relabel.crosslabel.ensemble": EnsembleDetector,
    "relabel.lat.train": train_lat,
    "relabel.lat.transfer": transfer,
}


def install(
    set_module: Callable[[str, ModuleType], None], set_attribute: Callable[[Any, str, Any], None]
) -> None:
    """Put the fakes where align imports the real ones."""
    import relabel.align.estimate as estimate
    import relabel.crosslabel.prompted as prompted
    import relabel.crosslabel.shards as shards

    set_attribute(estimate, "announcement", announcement)
    set_attribute(estimate, "_measured", lambda plan: estimate.Costs(1, 0, 1, 1, 1, 1, 1000))
    set_attribute(prompted, "cross_label_sam3", cross_label_sam3)
    set_attribute(shards, "read_pseudo_labels", read_pseudo_labels)
    for module, function in FAKES.items():
        fake = ModuleType(module)
        fake.__dict__["MAPS"] = "maps"
        setattr(fake, function.__name__, function)
        set_module(module, fake)


if __name__ == "__main__":
    from relabel.cli import main

    install(sys.modules.__setitem__, setattr)
    main()
