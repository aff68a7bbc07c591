"""Scoring and showing the demo's result, with a stand-in for align that knows the truth."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relabel.align.settings import PipelineSettings
from relabel.catalogue.catalogue import load_catalogue
from relabel.crosslabel.pseudo import PseudoLabels
from relabel.datasets.dataset import Boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.labelspace import LabelSpace
from relabel.demo import run as demo
from relabel.demo.backbone import BackboneSettings, train_backbone
from relabel.demo.build import SOURCES, World, write_world
from relabel.demo.config import write_config
from relabel.demo.score import _reliability
from relabel.settings import settings_from
from tests.builders.pages import ParsedPage

IMAGES = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    out = tmp_path_factory.mktemp("demo")
    return write_world(out, images=IMAGES, val_images=2, seed=3, quiet=True)


def pseudo_of(world: World, source: str) -> PseudoLabels:
    """A target specialist that finds every second object, exactly."""
    truth = read_dataset(world.truth(source), "coco")
    rows = np.arange(0, len(truth.boxes), 2)
    space = LabelSpace.from_names("cityscapes", truth.space.names)
    scores = np.zeros((len(rows), space.num_classes), np.float32)
    scores[np.arange(len(rows)), truth.boxes.category[rows]] = 0.9
    return PseudoLabels(
        space=space,
        by="cityscapes",
        on=source,
        file_name=list(truth.images.file_name),
        image=truth.boxes.image[rows],
        boxes=truth.boxes.xyxy[rows].astype(np.float32),
        scores=scores,
    )


@pytest.fixture
def told_by_the_truth(world: World, monkeypatch: pytest.MonkeyPatch):
    """An align that copies the truth, and a backbone that costs nothing."""
    monkeypatch.setattr(demo, "train_backbone", lambda *args, **kwargs: world.root)
    monkeypatch.setattr(
        "relabel.crosslabel.shards.read_pseudo_labels",
        lambda path: pseudo_of(world, Path(path).name.removeprefix("cityscapes_on_")),
    )
    calls: list[tuple[Path, Path]] = []

    def align(config: Path, workspace: Path) -> None:
        calls.append((config, workspace))
        for source in SOURCES:
            data: dict[str, Any] = json.loads(world.truth(source).read_text())
            data["images"].reverse()  # the order is the writer's business
            file = workspace / "result" / source / "annotations.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(data))

    return align, calls


def _scored(boxes: Boxes) -> Boxes:
    return replace(boxes, score=np.full(len(boxes), 0.55, np.float32))


@pytest.mark.slow
def test_run_demo_scores_shows_and_reuses(world: World, told_by_the_truth):
    align, calls = told_by_the_truth
    for _ in range(2):
        prepared = demo.prepare_demo(
            world.root, images=IMAGES, val_images=2, seed=3, effort=0.1, quiet=True
        )
        result = demo.run_demo(*prepared, align, quiet=True)
    assert result.world.reused
    assert calls == [(world.root / "relabel.toml", world.root / "align")] * 2
    for outcome in result.outcomes:
        names = [m.name for m in outcome.scores]
        assert names == [
            "LAT",
            "untouched boxes, name map",
            "filtered pseudo-labels",
            "supported pseudo-labels",
            "best-overlap relabelling",
        ]
        lat, untouched, filtered, *_ = outcome.scores
        assert lat.at["0.75"].f1 == 1
        assert pytest.approx(1) == lat.AP
        # Half of the objects, all of them right: F1 = 2 * 0.5 / 1.5.
        assert filtered.at["0.5"].precision == 1
        assert filtered.at["0.5"].f1 == pytest.approx(2 / 3, abs=0.02)
        assert (untouched.at["0.75"].f1 or 0) < 0.8
        header, rows = outcome.rows
        assert rows[0][:4] == ["LAT", "100.0", "100.0", "100.0"]
        assert all(len(row) == len(header) for row in rows)
    scores = json.loads((world.root / "scores.json").read_text())
    assert scores["waymo"]["LAT"]["at"]["0.75"]["f1"] == 1
    report = (world.root / "report.html").read_text()
    assert "best-overlap relabelling" in report
    assert report.count("data:image/jpeg") >= 2 * IMAGES
    page = ParsedPage(report)
    page.check()
    # Labels without scores claim nothing; with them, they are shown beside what is true.
    assert "Labels of waymo" not in page.texts
    outcome = result.outcomes[0]
    boxes = outcome.after.boxes
    told = _reliability(replace(outcome, after=outcome.after.with_boxes(_scored(boxes))))
    assert told is not None and told.title == f"Labels of {outcome.name}"
    assert told.count[5] == told.count.sum() == len(boxes)
    assert told.claimed[5] == pytest.approx(0.55) and told.seen[5] == 1
    assert [row[2] for row in page.rows if row[0] == "car" and len(row) == 7] == ["100.0"] * 2
    for source in SOURCES:
        with Image.open(world.root / f"{source}.png") as sheet:
            assert sheet.width > 3 * 500
            assert len(np.unique(np.asarray(sheet.convert("L")))) > 100


def test_truth_is_not_among_what_align_is_told(world: World):
    config = write_config(world.root, seed=3)
    assert "truth" not in config.read_text()
    catalogue = load_catalogue(config=config)
    assert list(catalogue.entries) == ["cityscapes", "waymo", "nuimages"]
    counts = {name: len(catalogue.get(name).read("train")) for name in catalogue.entries}
    assert counts == dict.fromkeys(counts, IMAGES)
    assert len(catalogue.get("cityscapes").read("val")) == 2


def test_config_settings_exist_and_effort_scales_them(tmp_path: Path):
    steps = []
    for effort in (1.0, 0.1):
        tables = tomllib.loads(write_config(tmp_path, seed=4, effort=effort).read_text())
        assert tables["runtime"] == {"seed": 4}
        defaults = PipelineSettings()
        for name in ("specialist", "lat", "align"):
            settings_from(type(getattr(defaults, name)), tables[name], where=name)
        steps.append((tables["specialist"]["steps"], tables["lat"]["steps"]))
    (specialist, lat), shorter = steps
    assert shorter == (round(specialist / 10), round(lat / 10))


@pytest.mark.slow
def test_backbone_learns_what_is_where_and_is_reused(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from transformers import AutoModel

    world = write_world(tmp_path, images=16, val_images=2, seed=3, quiet=True)
    train = read_dataset(world.root / "cityscapes", "cityscapes", split="train")
    settings = BackboneSettings(steps=40, batch_size=6, crop=128)
    folder = train_backbone(tmp_path / "net", train, "w", settings, quiet=True)
    first = (folder / "model.safetensors").stat().st_mtime_ns
    train_backbone(folder, train, "w", settings, quiet=True)
    assert (folder / "model.safetensors").stat().st_mtime_ns == first
    # A linear probe on one picture's features tells objects from street on another.
    net = AutoModel.from_pretrained(folder).eval()
    assert net.config.model_type == "resnet"

    def features(row: int):
        from relabel.datasets.pixels.location import load_rgb

        x = torch.from_numpy(load_rgb(train, row).astype(np.float32) / 255).permute(2, 0, 1)
        with torch.no_grad():
            maps = net(x[None] * 4 - 2, output_hidden_states=True).hidden_states
        h, w = maps[2].shape[-2:]
        thing = np.zeros((h * 8, w * 8), bool)
        for x0, y0, x1, y1 in train.boxes.xyxy[train.rows(row)].astype(int):
            thing[y0:y1, x0:x1] = True
        return maps[2][0].flatten(1).T.numpy(), thing[4::8, 4::8].ravel()

    xs, ys = zip(*(features(row) for row in range(12)), strict=True)
    design = np.concatenate(xs)
    design = np.concatenate([design, np.ones((len(design), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(design, np.concatenate(ys) * 2.0 - 1, rcond=None)
    held_x, held_y = zip(*(features(row) for row in range(12, 16)), strict=True)
    score = np.concatenate(held_x) @ weights[:-1] + weights[-1]
    truth = np.concatenate(held_y)
    order = np.argsort(score)
    rank = np.empty(len(order))
    rank[order] = np.arange(len(order))
    area = (rank[truth].mean() - (truth.sum() - 1) / 2) / (~truth).sum()  # under the ROC curve
    assert area > 0.85
