"""Align with real models, all tiny, and a random SAM 3 as a prompted detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from relabel.align.plan import prepare
from relabel.align.settings import AlignSettings, PipelineSettings
from relabel.catalogue.catalogue import load_catalogue
from relabel.cli import main
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.evaluation.baselines import filtered_pseudo_labels
from relabel.settings import Runtime
from tests.builders.blocks import tiny_backbone
from tests.builders.sam3 import tiny_sam3

TABLES = """
[datasets.fine]
format = "coco"
root = "fine"
train = "train.json"
[datasets.coarse]
format = "coco"
root = "coarse"
train = "train.json"
[align]
pictures = 0
formats = ["coco"]
prompted_detectors = ["sam3"]
[sam3]
model = "sam3"
image_size = 56
[specialist]
backbone = "backbone"
steps = 2
batch_size = 2
image_size = 64
max_image_size = 96
fpn_channels = 8
head_channels = 16
rpn_proposals = 20
precision = "fp32"
[lat]
steps = 2
batch_size = 2
image_size = 64
channels = 16
feature_channels = 4
folds = 2
precision = "fp32"
"""


@pytest.fixture
def folder(coco_set: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    coco_set("fine", ["car", "bus"], 4)
    coco_set("coarse", ["vehicle"], 3)
    tiny_backbone(tmp_path / "backbone")
    tiny_sam3(tmp_path / "sam3")
    (tmp_path / "relabel.toml").write_text(TABLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_lat_with_sam3_and_sam3_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["align", "--target", "fine", "--sources", "coarse", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--workers", "0", "--quiet", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    assert "labels by sam3 on coarse" in json.loads(out)["ran"]
    work = folder / "runs" / "fine"
    spaces = json.loads((work / "3_lat" / "config.json").read_text())["spaces"]
    assert [(s["name"], [c["name"] for c in s["categories"]]) for s in spaces] == [
        ("fine", ["car", "bus"]),
        ("coarse", ["vehicle"]),
        ("sam3", ["car", "bus"]),
    ]
    result = json.loads((work / "result" / "coarse" / "annotations.json").read_text())
    assert [c["name"] for c in result["categories"]] == ["car", "bus"]
    merged = json.loads((work / "result" / "merged.json").read_text())
    assert {image["dataset"] for image in merged["images"]} == {"fine", "coarse"}

    # SAM 3's labels alone need no training: a plan's goals are its steps by sam3.
    settings = PipelineSettings(
        align=AlignSettings(prompted_detectors=("sam3",)),
        sam3=Sam3Settings(model=str(folder / "sam3"), image_size=56),
    )
    catalogue, runtime = load_catalogue(), Runtime(device="cpu", workers=0, quiet=True)
    plan = prepare(catalogue, "fine", ["coarse"], folder / "arm", settings, runtime, shared=work)
    goals = [plan.labels["sam3", "coarse"]]
    assert plan.to_run(goals) == []  # made by the run above
    alone = prepare(catalogue, "fine", ["coarse"], folder / "alone", settings, runtime)
    goals = [alone.labels["sam3", "coarse"]]
    assert alone.run(goals).ran == ("labels by sam3 on coarse",)
    found = alone.read_labels("sam3", "coarse")
    source = alone.datasets["coarse"]
    half = float(found.score.max()) / 2
    labels = filtered_pseudo_labels(source, found, half)
    assert labels.space == alone.datasets["fine"].space and 0 < len(labels.boxes) <= len(found)
    assert (labels.boxes.score >= half).all() and len(labels) == len(source)
