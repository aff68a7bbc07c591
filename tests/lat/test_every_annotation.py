"""Every source annotation has labels that name it, or a line among the removed ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.align.store import write_removed, write_transferred
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset
from relabel.datasets.removed import MERGED, Removed
from relabel.errors import DataError
from relabel.lat.assemble import UNREAD
from relabel.lat.decide import LEFT_OUT, TOO_SMALL
from relabel.lat.settings import PARTS, LatSettings
from relabel.lat.transfer import transfer
from relabel.settings import Runtime
from tests.builders.blocks import (
    RUNTIME,
    TINY_LAT,
    World,
    make_world,
    tiny_backbone,
    train_on_blocks,
)
from tests.builders.datasets import edit_json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), images=12)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> LatSettings:
    return replace(
        TINY_LAT, steps=6, backbone=str(tiny_backbone(tmp_path_factory.mktemp("backbone")))
    )


@pytest.fixture(scope="module")
def trained(world: World, settings: LatSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_blocks(world, settings, tmp_path_factory.mktemp("lat"))


def moved(
    model: Path, world: World, out: Path, runtime: Runtime = RUNTIME, source: object = None
) -> tuple[DetectionDataset, Removed]:
    """A transfer with regions for training; each annotation is a label's or removed, once."""
    before = world.source if source is None else source
    assert isinstance(before, DetectionDataset)
    labels = {"tight": world.labels["tight", "loose"]}
    result, removed = transfer(model, before, labels, out, runtime, with_uncertain=True)
    provenance = result.boxes.provenance
    assert provenance is not None
    named = provenance.source_id[provenance.source_id > 0]
    gone = before.boxes.id[removed.row]
    assert (np.diff(removed.row) > 0).all()
    assert sorted([*np.unique(named), *gone]) == before.boxes.id.tolist()
    # A label made of an annotation names it, and regions that are no labels name none.
    origin = np.array(provenance.origin)
    assert (provenance.source_id[origin == "source"] > 0).all()
    assert (provenance.source_id[origin == UNCERTAIN] == -1).all()
    assert (result.boxes.ignore == (origin == UNCERTAIN)).all()
    assert set(removed.reason) <= {LEFT_OUT, TOO_SMALL, MERGED, UNREAD}
    return result, removed


def existing(trained: Path, folder: Path, offset: float) -> Path:
    """The model with annotations that exist the more surely the larger ``offset`` is."""
    shutil.copytree(trained, folder)
    edit_json(
        folder / "config.json", lambda c: c["calibration"].update(existence=[0.05, float(offset)])
    )
    return folder


def test_annotations_that_the_target_has_keep_their_place(
    world: World, trained: Path, tmp_path: Path
) -> None:
    model = existing(trained, tmp_path / "model", 9)
    result, removed = moved(model, world, tmp_path / "out")
    # Blocks stand alone: one label of each, but where a network of six steps moves two together.
    assert set(removed.reason) <= {MERGED} and len(removed) < len(world.source.boxes) / 4
    origin = result.boxes.provenance.origin if result.boxes.provenance else []
    assert list(origin).count("source") >= len(world.source.boxes) - len(removed)
    assert (result.boxes.score > 0).all() and (result.boxes.score <= 1).all()


def test_annotations_that_it_has_not_are_listed_unless_something_was_found_there(
    world: World, trained: Path, tmp_path: Path
) -> None:
    model = existing(trained, tmp_path / "model", -9)
    edit_json(
        model / "config.json",
        lambda c: c["calibration"].update(classes={"red": [1.0, 6.0], "blue": [1.0, 6.0]}),
    )
    result, removed = moved(model, world, tmp_path / "out")
    assert result.boxes.provenance is not None
    named = result.boxes.provenance.source_id
    # The target's specialist found the blocks: labels of its own lie on what was left out.
    assert (named > 0).sum() > len(world.source.boxes) / 2
    assert set(removed.reason) <= {LEFT_OUT, TOO_SMALL}
    assert (removed.probability < 0.5).all() and (removed.category >= 0).all()


def test_images_that_cannot_be_read_keep_their_annotations_in_the_list(
    world: World, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(world.source.root, tmp_path / "photos")
    source = replace(world.source, root=tmp_path / "photos")
    bad = int(source.boxes.image[0])
    (source.root / source.images.file_name[bad]).write_bytes(b"no image")
    with pytest.raises(DataError):
        moved(trained, world, tmp_path / "strict", source=source)
    runtime = replace(RUNTIME, skip_bad=True)
    result, removed = moved(trained, world, tmp_path / "out", runtime, source)
    unread = [row for row, why in zip(removed.row, removed.reason, strict=True) if why == UNREAD]
    assert unread == np.flatnonzero(source.boxes.image == bad).tolist()
    told = removed.take(np.isin(removed.row, unread))
    assert np.isnan(told.probability).all() and (told.category == -1).all()
    assert not (result.boxes.image == bad).any() and len(result) == len(source)


def test_the_same_again_gives_the_same_bytes(
    world: World, settings: LatSettings, trained: Path, tmp_path: Path
) -> None:
    again = train_on_blocks(world, settings, tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    written = []
    for model in (trained, again):
        result, removed = moved(model, world, tmp_path / model.name / "out")
        folder = tmp_path / model.name / "written"
        folder.mkdir()
        write_transferred(result, folder)
        write_removed(removed, world.source, folder)
        written.append([file.read_bytes() for file in sorted(folder.iterdir())])
    assert len(written[0]) == 2 and written[0] == written[1]


def test_cut_off_before_the_calibration_it_ends_with_the_same_bytes(
    world: World, settings: LatSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded = replace(settings, precision="bf16")
    whole, cut = train_on_blocks(world, rounded, tmp_path / "whole"), tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("relabel.lat.train.calibrate", lambda *_: pytest.fail("cut off"))
        with pytest.raises(pytest.fail.Exception, match="cut off"):
            train_on_blocks(world, rounded, cut)
    train_on_blocks(world, rounded, cut)
    for name in ("model.safetensors", "config.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("part", [*PARTS, "paper"])
def test_without_each_part_it_runs(
    world: World, settings: LatSettings, tmp_path: Path, part: str
) -> None:
    short = replace(settings, steps=2, without=(part,) if part in PARTS else ())
    if part == "paper":
        short = replace(short, preset="paper", folds=1)
    model = train_on_blocks(world, short, tmp_path / "lat")
    result, _ = moved(model, world, tmp_path / "out")
    config = json.loads((model / "config.json").read_text())
    # The printed recipe has a model and nothing held back.
    assert config["models"] == (1 if part == "paper" else 2)
    assert (config["calibration"]["existence"] == [1.0, 0.0]) == (
        part in ("paper", "simulated-source")
    )
    assert len(result) == len(world.source)
