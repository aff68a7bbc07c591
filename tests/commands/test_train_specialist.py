"""train-specialist on labelled images and on others, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from relabel.commands.train_specialist import (  # pyright: ignore[reportMissingImports]
    _unlabelled,
    _validation,
)

from relabel.catalogue.catalogue import Catalogue
from relabel.cli import main
from relabel.errors import Problems
from relabel.settings import Runtime
from tests.builders.blocks import tiny_backbone

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*args, "--device", "cpu", "--workers", "0"])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    for i in range(3):
        pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return folder.parent


def options(tmp_path: Path, fine: Path, *more: str) -> list[str]:
    return [
        *("train-specialist", "fine", "--data", f"fine={fine}:coco"),
        *("--out", str(tmp_path / "model"), "--backbone", str(tiny_backbone(tmp_path / "bb"))),
        *("--steps", "4", "--image-size", "64", "--precision", "fp32", "--batch-size", "2"),
        *("--set", "specialist.frozen_stride=0", "--set", "specialist.head_channels=32"),
        *("--set", "specialist.fpn_channels=16", "--set", "semi.burn_in=0.25"),
        *("--set", "semi.threshold=0", "--set", "semi.threshold_gamma=0"),
        *more,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["faster-rcnn", "certainty"])
def test_unlabelled_datasets_and_folders_join_the_training(
    tmp_path: Path, coco_set: Callable[..., Path], photos: Path, run: Run, family: str
) -> None:
    fine, other = coco_set("fine", ["car", "bus"]), coco_set("other", ["thing"], 3)
    both = f"other,{photos}"
    line = options(tmp_path, fine, "--data", f"other={other}:coco", "--detector", family)
    code, out, err = run(*line, "--unlabeled", both, "--json", "--quiet")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    model = Path(found["checkpoint"])
    assert set(json.loads((model / "pseudo_boxes.json").read_text())) == {"car", "bus"}
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert run(*line, "--unlabeled", both, "--quiet")[0] == 0
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    # Boxes of unlabelled images may change, the images may not.
    content = json.loads((other / "train.json").read_text())
    content["annotations"] = content["annotations"][:1]
    (other / "train.json").write_text(json.dumps(content))
    assert run(*line, "--unlabeled", both, "--quiet")[0] == 0
    code, _, err = run(*line, "--unlabeled", "other", "--quiet")
    assert code == 1 and "unlabelled" in err and "--overwrite" in err
    code, _, err = run(*line, "--quiet")
    assert code == 1 and "semi" in err


def test_an_unknown_name_and_an_empty_folder_are_one_line(
    tmp_path: Path, coco_set: Callable[..., Path], run: Run
) -> None:
    fine = coco_set("fine", ["car", "bus"])
    (tmp_path / "nothing").mkdir()
    code, _, err = run(*options(tmp_path, fine, "--unlabeled", "fime", "--quiet"))
    assert code == 1 and "fime" in err and "fine" in err and len(err.splitlines()) == 1
    code, _, err = run(*options(tmp_path, fine, "--unlabeled", str(tmp_path / "nothing")))
    assert code == 1 and "holds no images" in err


def test_a_text_file_and_photos_of_which_none_can_be_read_are_one_line(
    tmp_path: Path, coco_set: Callable[..., Path], run: Run
) -> None:
    fine = coco_set("fine", ["car", "bus"])
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    code, _, err = run(*options(tmp_path, fine, "--unlabeled", str(notes), "--quiet"))
    assert code == 1 and "notes.txt" in err and "folder of photos" in err
    assert "--format" not in err and len(err.splitlines()) == 1
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"nothing")
    more = ("--unlabeled", str(tmp_path / "broken"), "--skip-bad", "--quiet")
    code, _, err = run(*options(tmp_path, fine, *more))
    assert code == 1 and "no image of --unlabeled can be read" in err


def test_labelled_images_are_no_unlabelled_ones_and_idle_settings_are_named(
    tmp_path: Path, coco_set: Callable[..., Path], run: Run
) -> None:
    fine = coco_set("fine", ["car", "bus"])
    line = options(tmp_path, fine)
    code, _, err = run(*line, "--unlabeled", str(fine))
    assert code == 1 and "are training images" in err and "labelled ones already" in err
    code, _, err = run(*line, "--set", "semi.mix=mixpl", "--steps", "1")
    assert code == 0 and "Without --unlabeled" in err


def test_an_option_that_names_nothing_is_refused(
    tmp_path: Path, coco_set: Callable[..., Path], run: Run
) -> None:
    fine = coco_set("fine", ["car", "bus"])
    for nothing in ("", " , "):
        code, _, err = run(*options(tmp_path, fine, "--unlabeled", nothing))
        assert code == 2 and "--unlabeled" in err and "names nothing" in err


def test_a_folder_that_is_named_twice_counts_once(photos: Path) -> None:
    names = [f"{photos},{photos}/", str(photos / "deep" / "..")]
    found = _unlabelled(names, Catalogue(), photos.parent, Runtime(workers=0), Problems(False))
    assert {name: len(d) for name, d in found.items()} == {photos.name: 3}


def test_the_ap_that_is_told_is_that_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    history = [{"step": 2, "AP": 0.4, "AP50": 0.6}, {"step": 4, "AP": 0.1, "AP50": 0.2}]
    told = tmp_path / "metrics.json"
    told.write_text(json.dumps({"validation": history, "kept": 2}))
    assert _validation(tmp_path) == {"AP": 0.4, "AP50": 0.6}
    told.write_text(json.dumps({"validation": history}))
    assert _validation(tmp_path) == {"AP": 0.1, "AP50": 0.2}
    told.write_text(json.dumps({"validation": []}))
    assert _validation(tmp_path) is None
