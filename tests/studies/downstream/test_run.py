"""The real command line of the comparison on the demo world: every arm that a user can run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main
from relabel.demo.run import prepare_demo
from relabel.studies.downstream.arms import ARMS

RUNNABLE = [name for name in ARMS if "sam3" not in name]
DETECTOR = """
[detector]
steps = 4
batch_size = 2
image_size = 96
max_image_size = 192
rtdetr_queries = 20
rtdetr_layers = 1
rtdetr_channels = 32
[downstream]
curve_points = 2
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's datasets with few images, and settings of almost no training."""
    out = tmp_path_factory.mktemp("demo")
    _, config = prepare_demo(out, images=6, val_images=2, effort=0.01, quiet=True)
    text = config.read_text() + DETECTOR
    for table, steps in (("specialist", 4), ("lat", 6)):
        pattern = rf"(\[{table}\]\n(?:backbone.*\n)?)steps = \d+"
        text, replaced = re.subn(pattern, rf"\1steps = {steps}", text)
        assert replaced == 1
    config.write_text(text)
    return out


def compare(world: Path, capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> Any:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(world / "relabel.toml"), *arguments(world, *args)])
    out, err = capsys.readouterr()
    assert ended.value.code == status, err
    return json.loads(out) if status == 0 else err


def arguments(world: Path, *args: str) -> list[str]:
    return [
        *("evaluate", "downstream", "--target", "cityscapes", "--sources", "waymo,nuimages"),
        *("--align-dir", str(world / "align"), "--device", "cpu", "--quiet", "--json", *args),
    ]


PROTOCOL = """
[protocol]
title = "Demo"
targets = ["cityscapes"]
seeds = [0]
arms = ["target-only", "naive"]
[protocol.sources]
cityscapes = ["waymo"]
[protocol.extra.cityscapes.oracle]
waymo = "truth/waymo_in_cityscapes.json"
"""


@pytest.mark.slow
def test_the_protocols_script_measures_labels_alone(world: Path) -> None:
    file, out = world / "protocol.toml", world / "labels_alone"
    file.write_text((world / "relabel.toml").read_text() + PROTOCOL)
    script = Path(__file__).parents[3] / "benchmarks" / "downstream.py"
    command = [sys.executable, str(script), str(file), "--out", str(out), "--labels-only"]

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *args], capture_output=True, text=True, check=False)

    wrong = run("--arms", "naiv")
    assert wrong.returncode == 1 and "Traceback" not in wrong.stderr
    assert "--arms: the protocol has no 'naiv'. Did you mean 'naive'?" in wrong.stderr
    done = run()
    assert done.returncode == 0, done.stderr
    assert "| naive | waymo |" in done.stdout
    assert list(out.rglob("labels/naive")) and not list(out.rglob("training"))


@pytest.mark.slow
def test_every_arm_gives_numbers_and_sam3_a_reason(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = world / "truth" / "waymo_in_cityscapes.json"
    assert truth.is_file()
    out = world / "compared"
    args = ("--seeds", "0", "--out", str(out), "--extra", f"oracle={truth}")
    (world / "no_weights").mkdir(exist_ok=True)
    nowhere = ("--set", f"sam3.model={world / 'no_weights'}")
    result = compare(world, capsys, *args, *nowhere)
    assert list(result["arms"]) == [*RUNNABLE, "oracle"]
    assert set(result["not_run"]) == {"sam3", "lat+sam3"}
    assert all("no_weights" in reason for reason in result["not_run"].values())
    for numbers in result["arms"].values():
        assert len(numbers["AP"]) == len(numbers["AP50"]) == len(numbers["AP75"]) == 1
        assert 0 <= numbers["AP"][0] <= 1
        assert all(len(values) == 1 for values in numbers["per_class"].values())
    curve = json.loads((out / "training" / "lat" / "seed0" / "curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 4]
    assert curve[-1]["AP"] == result["arms"]["lat"]["AP"][0]
    for name in ("downstream.json", "downstream.md", "arms.png", "classes.svg", "curves.png"):
        assert (out / name).stat().st_size > 0
    labels = json.loads((out / "labels" / "lat" / "waymo.json").read_text())
    spoken = {c["name"] for c in labels["categories"]}
    assert {"person", "rider", "bicycle"} <= spoken

    # Nothing is trained twice, and a cut-off training is carried on alone.
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("model.safetensors")}
    manifest = out / "training" / "naive" / "seed0" / "stage.json"
    cut = json.loads(manifest.read_text()) | {"state": "running"}
    manifest.write_text(json.dumps(cut))
    again = compare(world, capsys, *args, *nowhere)
    assert again["arms"] == result["arms"]
    changed = {p.parent.parent.name for p, t in stamps.items() if p.stat().st_mtime_ns != t}
    assert changed == {"naive"}


def test_sam3_is_asked_for_once(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unavailable(model: str) -> str:
        asked.append(model)
        return "the hub cannot be reached"

    monkeypatch.setattr("relabel.detectors.sam3.detector.why_unavailable", unavailable)
    args = ("--arms", "sam3,lat+sam3", "--seeds", "0", "--out", str(world / "sam3"))
    result = compare(world, capsys, *args)
    assert result["arms"] == {}
    assert result["not_run"] == dict.fromkeys(("sam3", "lat+sam3"), "the hub cannot be reached")
    assert len(asked) == 1


@pytest.mark.slow
def test_changed_settings_are_refused_with_the_difference(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(world / "refused")
    one = ("--arms", "target-only", "--seeds", "1", "--out", out)
    compare(world, capsys, *one)
    err = compare(world, capsys, *one, "--detector-lr", "0.5e-3", status=1)
    assert "lr" in err and "0.0005" in err and "--overwrite" in err
    redone = compare(world, capsys, *one, "--detector-lr", "0.5e-3", "--overwrite")
    assert list(redone["arms"]) == ["target-only"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--arms", "lta"), "did you mean"),
        (("--arms", ","), "no arms"),
        (("--seeds", "a"), "each a whole number of 0 or more"),
        (("--seeds", "-1"), "each a whole number of 0 or more"),
        (("--seeds", ""), "one or more values"),
        (("--arms", "lat,lat", "--extra", "lat=x.json"), "lat"),
        (("--map", "waymo=none.yaml"), "none.yaml"),
        (("--map", "wayma=x.yaml"), "did you mean 'waymo'"),
    ],
)
def test_mistakes_are_named(
    world: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], said: str
) -> None:
    status = 2 if args[0] == "--seeds" else 1
    err = compare(world, capsys, *args, "--out", str(world / "none"), status=status)
    assert said.lower() in err.lower()
    assert not (world / "none").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vehicle: carr\npedestrian: person\ncyclist: rider\n", "'carr'. Did you mean 'car'"),
        ("vehicles: car\n", "'vehicles'. Did you mean 'vehicle'"),
        ("pedestrian: person\n", "does not name 'vehicle'"),
    ],
)
def test_a_name_map_is_checked_before_anything_is_trained(
    world: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (world / "map.yaml").write_text(text)
    args = ("--arms", "naive", "--map", f"waymo={world / 'map.yaml'}")
    err = compare(world, capsys, *args, "--out", str(world / "unmapped"), status=1)
    assert said in err and "map.yaml" in err
    assert not (world / "unmapped").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "in_the_way").write_text("")
    out = str(world / "in_the_way" / "out")
    err = compare(world, capsys, "--arms", "naive", "--out", out, status=1)
    assert "cannot be written" in err and out in err and "--out" in err


def test_a_target_without_test_images_is_told_how_to_get_some(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    swapped = ["--target", "waymo", "--sources", "cityscapes", "--out", str(world / "swapped")]
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(world / "relabel.toml"), "evaluate", "downstream", *swapped])
    assert ended.value.code == 1
    assert "holdout" in capsys.readouterr().err


@pytest.mark.slow
def test_rt_detr_takes_the_same_arms(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--detector", "rt-detr", "--seeds", "0", "--out", str(world / "rt_detr"))
    result = compare(world, capsys, "--arms", ",".join(RUNNABLE), *args)
    assert list(result["arms"]) == RUNNABLE
    config = world / "rt_detr" / "training" / "lat" / "seed0" / "config.json"
    assert json.loads(config.read_text())["detector"] == "rt_detr"


@pytest.mark.slow
def test_two_processes_share_a_comparison(world: Path) -> None:
    """Both end with the whole table; no training is done by both."""
    out = world / "together"
    args = arguments(world, "--arms", "target-only,unified", "--seeds", "0", "--out", str(out))
    command = [sys.executable, "-m", "relabel", "--config", str(world / "relabel.toml"), *args]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=300)[0]) for process in both]
    assert results[0]["arms"] == results[1]["arms"]
    assert list(results[0]["arms"]) == ["target-only", "unified"]
