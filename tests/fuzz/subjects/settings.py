"""relabel.toml, name maps and label spaces."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.builders.datasets import coco_set
from tests.fuzz.subjects.base import DATA, OUT, Subject

_TOML = """
[datasets.fine]
format = "coco"
root = "fine"
train = "train.json"
space = "space.yaml"

[datasets.coarse]
format = "coco"
root = "${NOWHERE:-coarse}"
train = "train.json"
sample = 6
sample_seed = 1

[specialist]
epochs = 2
backbone = "backbone"

[lat]
backbone = "backbone"
steps = 3

[crosslabel]
min_score = 0.25

[runtime]
workers = 1
"""


def _project(root: Path) -> None:
    coco_set(root, "fine", ["car", "van"], images=8)
    coco_set(root, "coarse", ["vehicle"], images=8)
    (root / "relabel.toml").write_text(_TOML)
    (root / "space.yaml").write_text(
        "name: fine\ncategories:\n- {id: 1, name: car, aliases: [auto]}\n"
        "- {id: 2, name: van, prompt: a van}\n- {id: 3, name: rack, ignore: true}\n"
    )
    (root / "map.yaml").write_text("car: vehicle\nvan: vehicle\nrack: null\n")
    (root / "backbone").mkdir()
    (root / "backbone/config.json").write_text('{"model_type": "mobilenet_v2", "image_size": 96}')
    (root / "backbone/model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")


def _project_commands(rng: Random) -> list[str]:
    config = ["-C", f"{DATA}/relabel.toml"]
    skip = ["--skip-bad"] if rng.random() < 0.4 else []
    as_json = ["--json"] if rng.random() < 0.3 else []
    kind = rng.choices(
        ["align", "list", "describe", "validate", "convert", "train-specialist"],
        [20, 15, 20, 15, 20, 3],
    )[0]
    if kind == "align":
        args = ["align", "--target", "fine", "--sources", "coarse", "--dry-run", *skip, *as_json]
        return [*args, "--out", f"{OUT}/run", *config]
    if kind == "list":
        return ["datasets", "list", *as_json, *config]
    if kind == "describe":
        return ["datasets", "describe", rng.choice(["fine", "coarse"]), *skip, *as_json, *config]
    if kind == "validate":
        return ["datasets", "validate", rng.choice(["fine", "coarse"]), *as_json, *config]
    if kind == "train-specialist":
        return ["train-specialist", "fine", *skip, "--out", f"{OUT}/specialist", *config]
    args = ["datasets", "convert", "fine", "--map", f"{DATA}/map.yaml", *skip]
    return [*args, "--to", "coco", "--out", f"{OUT}/set.json", *config]


SETTINGS: tuple[Subject, ...] = (Subject("project", _project, _project_commands, 24),)
