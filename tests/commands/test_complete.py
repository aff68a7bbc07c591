"""``relabel complete`` and ``relabel evaluate completion`` through the root command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from relabel.cli import main
from relabel.datasets.partial.files import read_partial
from tests.builders.colours import COLOURS, paint, tiny_resnet
from tests.builders.datasets import write_pixels

RUN = ("--device", "cpu", "--workers", "0", "--quiet")
QUICK = (
    *("--image-size", "32", "--steps", "60", "--batch-size", "16", "--lr", "0.02"),
    *("--set", "complete.precision=fp32", *RUN),
)


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def colour_set(root: Path, images: int = 48, seed: int = 0) -> Path:
    """Images of one or two colours and ``labels.csv``, which knows all of them."""
    rng = np.random.default_rng(seed)
    lines = [",".join(["file_name", *COLOURS])]
    for i in range(images):
        shown = rng.permutation(3)[: rng.integers(1, 3)].tolist()
        write_pixels(root / f"{i:03d}.png", paint(rng, *shown))
        lines.append(",".join([f"{i:03d}.png", *(str(1 if c in shown else -1) for c in range(3))]))
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root / "labels.csv"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, training and test images, and the relabel.toml that names them."""
    folder = tmp_path_factory.mktemp("world")
    tiny_resnet(folder / "net")
    colour_set(folder / "train")
    colour_set(folder / "test", 24, seed=1)
    (folder / "relabel.toml").write_text(
        "[datasets.colours]\n"
        'format = "multilabels"\nroot = "."\n'
        'train = "all.csv"\ntest = "held.csv"\n'
        '[complete]\nbackbone = "net"\n'
    )
    for name, of in (("all", "train"), ("held", "test")):
        head, *rows = (folder / of / "labels.csv").read_text().splitlines()
        (folder / f"{name}.csv").write_text("\n".join([head, *(f"{of}/{row}" for row in rows)]))
    return folder


def test_complete_measure_and_resume(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call = (
        *("complete", "-C", world / "relabel.toml", "--dataset", "colours", "--method", "bce"),
        *("--known", "0.5", "--out", out, "--json", "--refit", *QUICK),
    )
    code, text, err = run(capsys, *call)
    assert code == 0, err
    found = json.loads(text)
    promised = ["images", "classes", "known", "completed", "unknown_mAP", "test_mAP", "CF1", "OF1"]
    assert list(found)[:8] == promised
    assert found["images"] == 48 and found["classes"] == 3
    assert found["known"] + found["completed"] == 144
    assert found["unknown_mAP"] > 0.8 and found["test_mAP"] > 0.8  # chance about 0.5
    table = pq.read_table(out / "labels.parquet").to_pydict()
    assert list(table) == ["file_name", "present", "absent", "scores", "source"]
    known = sum(len(p) + len(a) for p, a in zip(table["present"], table["absent"], strict=True))
    assert known == found["known"]
    assert {s for row in table["source"] for s in row} == {"known", "classifier"}
    completed = read_partial(out / "labels.csv").dense()
    assert (completed != 0).all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Share that is present by confidence" in page
    assert re.search(r'Time by stage.*<th scope="row">model</th><td class="num">[\d.]+</td>', page)

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    code, again, _ = run(capsys, *call, "--fiftyone")
    assert code == 0 and again == text
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(json.loads((out / "fiftyone" / "samples.json").read_text())["samples"]) == 48
    code, _, err = run(capsys, *call, "--threshold", "0.9")
    assert code == 1 and "settings.threshold: 0.5 → 0.9" in err
    code, _, err = run(capsys, *call, "--threshold", "0.9", "--overwrite")
    assert code == 0, err
    weights = out / "model" / "network" / "model.safetensors"
    assert weights.stat().st_mtime_ns == before[weights]
    code, _, err = run(capsys, *(a for a in call if a != "--refit"), "--overwrite")
    assert code == 0, err
    code, plain, err = run(capsys, *call, "--overwrite")  # refitting trains nothing again
    assert code == 0 and plain == text, err
    assert weights.stat().st_mtime_ns == before[weights]


def test_a_path_without_truth_has_no_measure(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class never known present, an image of which nothing is known, one with all known."""
    head, *rows = (world / "train" / "labels.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    for i, row in enumerate(cells):
        row[1] = "0" if row[1] == "1" else row[1]
        if i == 5:
            row[1:] = ["0"] * 3
    partial = world / "train" / "partial.csv"
    partial.write_text("\n".join([head, *(",".join(row) for row in cells)]))
    out = tmp_path / "out"
    code, text, err = run(
        capsys, "complete", "--dataset", partial, "--backbone", world / "net", "--method", "hst",
        *("--out", out, "--json", *QUICK, "--steps", "8", "--set", "complete.width=8"),
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(text)
    assert found["completed"] > 0
    assert all(found[k] is None for k in ("unknown_mAP", "test_mAP", "CF1", "OF1"))
    table = pq.read_table(out / "labels.parquet").to_pydict()
    assert np.isfinite(table["scores"]).all()
    assert "known" not in table["source"][5]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "There is no truth" in page and "transfer between labels" in page


@pytest.mark.parametrize(
    ("text", "more", "match"),
    [
        ("file_name,red,red\n000.png,1,-1\n", (), "'red' is there twice"),
        ("file_name,red\n000.png,0\n", (), "nothing is known"),
        ("file_name,red\nmissing.png,1\n", (), "missing.png"),
        ("file_name,red\n000.png,1\n", ("--known", "0"), "nothing is known"),
        ("file_name,red\n000.png,1\n", ("--test-split", "test"), "without a split"),
        ("file_name,red\n", (), "no image"),
    ],
)
def test_what_cannot_be_completed_is_one_line(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    more: tuple[str, ...],
    match: str,
) -> None:
    labels = world / "train" / "wrong.csv"
    labels.write_text(text)
    code, out, err = run(
        capsys, "complete", "--dataset", labels, "--backbone", world / "net", "--method", "bce",
        *("--out", tmp_path / "out", *QUICK, *more),
    )  # fmt: skip
    assert code == 1 and not out
    assert match in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"classes": [" red"], "images": [{"file_name": "000.png", "present": [0]}]}', "a blank"),
        ('{"classes": ["a\\nb"], "images": [{"file_name": "000.png", "present": [0]}]}', "break"),
        ('{"classes": ["red"], "images": [{"file_name": "a\\tb.png", "present": [0]}]}', "a tab"),
        ('{"classes": ["red"], "images": [{"file_name": "000.png"}]}', "nothing is known"),
    ],
)
def test_names_that_no_file_holds_are_refused_before_the_training(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, match: str
) -> None:
    labels = world / "train" / "names.json"
    labels.write_text(text)
    code, _, err = run(
        capsys, "complete", "--dataset", labels, "--backbone", world / "net", "--method", "bce",
        *("--out", tmp_path / "out", *QUICK),
    )  # fmt: skip
    assert code == 1 and match in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_read_are_listed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "train" / "broken.png").write_text("broken")
    labels = world / "train" / "few.csv"
    labels.write_text("file_name,red,green\n000.png,1,-1\n001.png,-1,1\nbroken.png,1,0\n")
    call: list[Any] = ["complete", "--dataset", labels, "--backbone", world / "net"]
    call += ["--method", "bce", *(a for a in QUICK if a != "--quiet"), "--steps", "2"]
    code, _, err = run(capsys, *call, "--out", tmp_path / "out", "--skip-bad")
    assert code == 0 and "broken.png: cannot be read" in err
    code, _, err = run(capsys, *call, "--out", tmp_path / "strict")
    assert code == 1 and "broken.png" in err
    call = ["evaluate", "completion", "--dataset", labels, "--backbone", world / "net"]
    call += ["--methods", "bce", "--proportions", "90", "--seeds", "0", "--steps", "2"]
    call += [*(a for a in QUICK if a != "--quiet"), "--out", tmp_path / "study", "--skip-bad"]
    for _ in range(2):  # what a finished training could not read is listed again
        code, _, err = run(capsys, *call)
        assert code == 0 and err.count("broken.png: cannot be read") == 1


def test_labels_of_one_kind_and_a_refit_that_gains_nothing_are_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = world / "train" / "positives.csv"
    labels.write_text("file_name,red,green\n" + "".join(f"{i:03d}.png,1,0\n" for i in range(8)))
    call: list[Any] = ["complete", "--dataset", labels, "--backbone", world / "net", "--refit"]
    call += [*(a for a in QUICK if a != "--quiet"), "--steps", "2", "--out", tmp_path / "out"]
    code, _, err = run(capsys, *call)
    assert code == 0 and "warning" in err and "no label is known to be absent" in err
    assert "the classifiers stay as trained" in err


def test_a_split_that_is_not_there(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call: list[Any] = ["complete", "-C", world / "relabel.toml", "--dataset", "colours", *QUICK]
    code, _, err = run(capsys, *call, "--test-split", "foo", "--out", tmp_path / "out")
    assert code == 1 and "has no split 'foo'" in err and "train, val or test" in err


def test_a_layout_is_read_the_same_when_its_format_is_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COCO's val stands in for test images, which are not trained on."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        write_pixels(tmp_path / "coco" / split / f"{split}.png", paint(rng, 0))
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png", "width": 32, "height": 32}],
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        }
        file = tmp_path / "coco" / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    call: list[Any] = ["complete", "--dataset", tmp_path / "coco", "--format", "coco", "--json"]
    call += ["--backbone", world / "net", *QUICK, "--steps", "2", "--out", tmp_path / "out"]
    code, text, err = run(capsys, *call)
    assert code == 0, err
    assert json.loads(text)["images"] == 1 and json.loads(text)["test_mAP"] == 1.0


def test_images_that_are_completed_are_not_measured_on(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """COCO's val stands in for test images, also where val itself is completed."""
    rng = np.random.default_rng(0)
    coco = tmp_path / "coco"
    for split in ("train", "val"):
        write_pixels(coco / split / f"{split}.png", paint(rng, 0))
        content = {
            "images": [{"id": 1, "file_name": f"{split}.png", "width": 32, "height": 32}],
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
        }
        file = coco / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    call: list[Any] = ["complete", "--dataset", coco, "--backbone", world / "net", "--json"]
    call += ["--method", "bce", *QUICK, "--steps", "2"]
    code, text, err = run(capsys, *call, "--out", tmp_path / "train")
    assert code == 0 and json.loads(text)["test_mAP"] == 1.0, err
    code, text, err = run(capsys, *call, "--out", tmp_path / "val", "--split", "val")
    assert code == 0 and json.loads(text)["test_mAP"] is None, err


def test_one_class_and_a_folder_of_somebody_else(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = world / "train" / "one.csv"
    labels.write_text("file_name,red\n" + "".join(f"{i:03d}.png,{1 - i % 3}\n" for i in range(12)))
    call: list[Any] = ["complete", "--dataset", labels, "--backbone", world / "net"]
    call += ["--method", "sr", *QUICK, "--steps", "4", "--out"]
    assert run(capsys, *call, tmp_path / "out")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    code, _, err = run(capsys, *call, tmp_path / "mine")
    assert code == 1 and "did not write" in err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    code, _, err = run(capsys, "complete", "--dataset", "colors", "--method", "bce")
    assert code == 1 and "no dataset is called 'colors'" in err


def test_compare_methods(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    call: list[Any] = ["evaluate", "completion", "-C", world / "relabel.toml"]
    call += ["--dataset", "colours", "--methods", "bce,asl", "--proportions", "20,60"]
    call += ["--seeds", "0", "--out", out, *QUICK, "--set", "complete.held_back=0"]
    code, text, _ = run(capsys, *call, "--dry-run")
    assert code == 0 and "4 of 4 trainings to run" in text
    code, text, err = run(capsys, *call, "--json")
    assert code == 0, err
    content = json.loads(text)
    rows = content["datasets"]["colours"]["rows"]
    assert list(rows) == ["bce", "bce+refit", "asl", "asl+refit"]
    assert rows["bce"]["test"]["mAP"]["average"]["mean"] > 0.7
    assert set(content["datasets"]["colours"]["intervals"]["test"]) == {
        "bce+refit",
        "asl",
        "asl+refit",
    }
    assert (out / "completion.md").is_file() and (out / "colours_test.png").is_file()
    code, text, _ = run(capsys, *call, "--dry-run", "--json")
    assert {row["status"] for row in json.loads(text)["trainings"]} == {"done"}
    code, _, err = run(capsys, *call, "--seed", "3")
    assert code == 2 and "--seed says nothing here" in err
    code, _, err = run(capsys, *call, "--proportions", "0.5")
    assert code == 2 and "are percent" in err
    code, _, err = run(capsys, *call, "--seeds", "a")
    assert code == 2 and "--seeds must be numbers" in err
