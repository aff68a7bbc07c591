"""Mistakes and damage are reported before any training, with the remedy; kills lose nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from relabel.cli import main
from tests.builders.blocks import tiny_backbone

MakeSet = Callable[..., Path]
Edit = Callable[[dict[str, Any]], None]
CONFIG = """
[datasets.fine]
format = "coco"
root = "fine"
train = "train.json"
test = "test.json"
[datasets.coarse]
format = "coco"
root = "coarse"
train = "train.json"
[specialist]
backbone = "BACKBONE"
steps = 2
batch_size = 2
frozen_stride = 0
image_size = 64
fpn_strides = [4, 8, 16]
fpn_channels = 16
head_channels = 32
rois_per_image = 16
rpn_proposals = 30
precision = "fp32"
[downstream]
curve_points = 2
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def root(coco_set: MakeSet, backbone: Path, tmp_path: Path) -> Path:
    """Two datasets: ``fine`` with two test images beside its four, and ``coarse``."""
    fine = coco_set("fine", ["car", "bus"], 6)
    coco_set("coarse", ["car"], 3)
    whole = json.loads((fine / "train.json").read_text())
    for name, ids in (("train", {1, 2, 3, 4}), ("test", {5, 6})):
        part = whole | {
            "images": [i for i in whole["images"] if i["id"] in ids],
            "annotations": [a for a in whole["annotations"] if a["image_id"] in ids],
        }
        (fine / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "relabel.toml").write_text(CONFIG.replace("BACKBONE", backbone.as_posix()))
    return tmp_path


def edit(file: Path, change: Edit) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def arguments(root: Path, *args: str, arms: str = "target-only", seeds: str = "0") -> list[str]:
    return [
        *("--config", str(root / "relabel.toml"), "evaluate", "downstream", "--target", "fine"),
        *("--sources", "coarse", "--arms", arms, "--seeds", seeds, "--out", str(root / "out")),
        *("--device", "cpu", "--workers", "0", "--quiet", "--json", *args),
    ]


def run(capsys: pytest.CaptureFixture[str], command: list[str], status: int = 0) -> tuple[Any, str]:
    """The JSON result, and what was said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(command)
    out, err = capsys.readouterr()
    assert ended.value.code == status, err
    assert "Traceback" not in err
    return (json.loads(out) if status == 0 else None), err


@pytest.mark.parametrize(
    ("file", "emptied", "said"),
    [
        ("fine/train.json", ("annotations",), "the 4 training images of 'fine' have no boxes"),
        ("fine/test.json", ("annotations",), "the 2 test images of 'fine' have no boxes"),
        ("fine/train.json", ("images", "annotations"), "'fine' has no images"),
        ("fine/test.json", ("images", "annotations"), "'fine' has no test images"),
        ("coarse/train.json", ("images", "annotations"), "'coarse' has no images"),
    ],
)
def test_nothing_to_learn_or_to_measure_is_said_at_once(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    emptied: tuple[str, ...],
    said: str,
) -> None:
    edit(root / file, lambda content: content.update({key: [] for key in emptied}))
    _, err = run(capsys, arguments(root, arms="target-only,naive"), 1)
    assert said in err and "relabel.toml" in err
    assert not (root / "out").exists()


def test_a_test_image_that_cannot_be_read_is_named_or_left_out(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = root / "fine" / "images" / "004.png"
    whole = image.read_bytes()
    image.unlink()
    _, err = run(capsys, arguments(root), 1)
    assert "004.png" in err and "does not exist" in err and "--skip-bad" in err
    assert not (root / "out").exists()
    image.write_bytes(whole[:60])
    _, err = run(capsys, arguments(root), 1)
    assert "004.png" in err and "--skip-bad" in err
    result, err = run(capsys, arguments(root, "--skip-bad", "--overwrite"))
    assert "skipped" in err and "004.png" in err
    assert result["images"] == {"fine": 4, "test": 1, "coarse": 3}
    assert result["arms"]["target-only"]["AP"][0] is not None


def test_bad_records_and_images_of_an_extra_file_are_named_or_left_out(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "oracle.json"
    shutil.copy(root / "coarse" / "train.json", file)
    edit(file, lambda content: content["annotations"][1].update(image_id=99))
    # The four images of fine have the same names: those of the file beside it count.
    shutil.copytree(root / "coarse" / "images", root / "images")
    (root / "images" / "002.png").write_bytes(b"nothing")
    extra = ("--extra", f"oracle={file}")
    _, err = run(capsys, arguments(root, *extra, arms="naive"), 1)
    assert "oracle.json, annotation 2" in err and "--skip-bad" in err
    # Nothing was made for the other arms before this was found.
    assert not (root / "out" / "align").exists()
    result, err = run(capsys, arguments(root, *extra, "--skip-bad"))
    assert "annotation 2" in err and "002.png" in err
    assert list(result["arms"]) == ["target-only", "oracle"]
    # Of three boxes, one belongs to no image and one to an image that cannot be read.
    assert result["boxes"]["oracle"] == {"oracle": 1}


def test_a_map_given_twice_is_wrong_usage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = run(capsys, arguments(root, "--map", "coarse=a.yaml", "--map", "coarse=b.yaml"), 2)
    assert "given twice for 'coarse'" in err


def test_repeated_seeds_and_arms_count_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, _ = run(capsys, arguments(root, arms="target-only,target-only", seeds="3,3"))
    assert result["seeds"] == [3]
    assert len(result["arms"]["target-only"]["AP"]) == 1


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_results(root: Path) -> None:
    """kill -9 in the middle of a training that keeps a checkpoint of every step."""
    for file in (root / "coarse" / "images").iterdir():
        assert Image.open(file).size == (64, 48)
    more = ("--detector-steps", "12", "--set", "detector.checkpoint_every=0")
    command = [sys.executable, "-m", "relabel", *arguments(root, *more, arms="unified")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = root / "out" / "training" / "unified" / "seed0"
    names = ("metrics.json", "curve.json", "model.safetensors")
    expected = {name: (whole / name).read_bytes() for name in names}
    shutil.rmtree(root / "out")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not any(whole.glob("checkpoint/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (whole / "metrics.json").exists()
    assert any(whole.glob("checkpoint/*"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert {name: (whole / name).read_bytes() for name in names} == expected
