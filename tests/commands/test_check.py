"""`relabel check` by the command line: with detections of one's own, and once with a training."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from relabel.cli import main
from relabel.datasets.formats.registry import write_dataset
from relabel.geometry import xyxy_to_xywh
from tests.builders.blocks import tiny_backbone
from tests.builders.datasets import edit_json, write_image, write_json
from tests.builders.suspects import SIZE, Street
from tests.fiftyone_database import loaded_by_view

CAR, TRUCK, PERSON = range(3)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["check", *map(str, args)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def suspicious() -> Street:
    """A missing car, a car that is a truck, and a person who is in the mirror."""
    street = Street()
    street.predict(street.last, [20, 20, 60, 60], CAR, 0.97)
    street.annotate(street.last, [80, 50, 110, 90], CAR)
    street.predict(street.last, [80, 50, 110, 90], TRUCK, 0.96)
    street.annotate(0, [10, 70, 30, 98], PERSON)
    street.predict(0, [170, 70, 190, 98], PERSON, 0.95)
    return street


def write_street(street: Street, folder: Path) -> tuple[Path, Path]:
    """A COCO file with its images, and detections in COCO's result format."""
    data, labels = street.build(root=folder / "photos")
    for name in data.images.file_name:
        write_image(folder / "photos" / name, *SIZE)
    write_dataset(data, "coco", folder / "street.json")
    rows = [
        {
            "image_id": int(data.images.id[image]),
            "category_id": int(data.space.ids[category]),
            "bbox": xyxy_to_xywh(box).tolist(),
            "score": float(score),
        }
        for image, category, box, score in zip(
            labels.image, labels.category, labels.boxes, labels.score, strict=True
        )
    ]
    return folder / "street.json", write_json(folder / "detections.json", rows)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_street(suspicious(), tmp_path)


def test_suspects_of_given_detections(files: tuple[Path, Path], tmp_path: Path, run: Run) -> None:
    data, detections = files
    out = tmp_path / "out"
    code, said, err = run(data, "--detections", detections, "--out", out)
    assert code == 0, err
    found = json.loads((out / "suspects.json").read_text())
    schema = json.loads((resources.files("relabel.schemas") / "suspects.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(found, schema)
    assert (found["predictions_by"], found["merged"]) == ("detections.json", None)
    assert (found["images"], found["checked_images"], found["annotations"]) == (41, 41, 42)
    top = {s["kind"]: s for s in found["suspects"][:3]}
    assert set(top) == {"missing box", "wrong class", "mirrored box"}
    assert top["missing box"]["proposed_bbox"] == [20, 20, 40, 40]
    assert top["missing box"]["file_name"] == "040.jpg"
    assert top["wrong class"]["annotation_id"] == 41
    assert (top["wrong class"]["category"], top["wrong class"]["proposed_category"]) == (
        "car",
        "truck",
    )
    assert top["mirrored box"]["bbox"] == [10, 70, 20, 28]
    assert top["mirrored box"]["proposed_bbox"] == [170, 70, 20, 28]
    assert found["counts"]["missing box"] == {"car": 1}
    scores = [s["score"] for s in found["suspects"]]
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0.1
    assert "suspects among 42 annotations of street" in said
    assert f"    relabel view {out}" in err

    page = (out / "report.html").read_text()
    assert "Suspect labels of street" in page
    assert page.count('<figure class="ba">') == len(found["suspects"])
    assert "relabel check" in page and "How this was made" in page
    assert (
        run(data, "--detections", detections, "--out", out)[2]
        == "Checked already.\n" + err[err.index("Next") :]
    )


def test_json_tells_counts_and_files(files: tuple[Path, Path], tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    code, said, _ = run(files[0], "--detections", files[1], "--out", out, "--json", "--quiet")
    told = json.loads(said)
    assert code == 0
    assert (told["dataset"], told["annotations"]) == ("street", 42)
    assert told["counts"]["wrong class"] == {"car": 1}
    assert Path(told["report"]).is_file() and Path(told["fiftyone"]).is_dir()


def test_changed_detections_are_another_check(
    files: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    args = (files[0], "--detections", files[1], "--out", tmp_path / "out", "--quiet")
    assert run(*args)[0] == 0
    edit_json(files[1], lambda rows: rows.pop())
    code, _, err = run(*args)
    assert code == 1 and "inputs.detections" in err
    assert run(*args, "--overwrite")[0] == 0


def test_a_run_of_align_is_checked_by_its_training_file(
    files: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "align"
    write_street(suspicious(), folder / "result")
    (folder / "result/street.json").rename(folder / "result/merged.json")
    out = tmp_path / "out"
    code, _, err = run(folder, "--detections", files[1], "--out", out, "--quiet")
    assert code == 0, err
    found = json.loads((out / "suspects.json").read_text())
    assert found["dataset"] == "align"
    merged = folder / "result/merged.json"
    assert found["merged"] == hashlib.sha256(merged.read_bytes()).hexdigest()
    said = run(folder, "--detections", files[1], "--out", out)[2]
    assert f"    relabel view {folder} --suspects {out}\n" in said
    # Other bytes are another result, though they hold the same labels.
    merged.write_bytes(merged.read_bytes() + b"\n")
    code, _, err = run(folder, "--detections", files[1], "--out", out, "--quiet")
    assert code == 1 and "inputs.merged.json" in err
    code, _, err = run(tmp_path / "align/result", "--detections", files[1])
    assert code == 1 and "is no finished run of align" in err and err.count("\n") == 1


def test_annotators_who_name_things_differently_are_told(tmp_path: Path, run: Run) -> None:
    """One of two calls every car a truck."""
    data, detections = write_street(Street(good=120), tmp_path)

    def rename(coco: Any) -> None:
        for k, annotation in enumerate(coco["annotations"]):
            annotation["annotator"] = "anna" if k % 2 else "ben"
            if k % 2 and annotation["category_id"] == coco["categories"][CAR]["id"]:
                annotation["category_id"] = coco["categories"][TRUCK]["id"]

    edit_json(data, rename)
    out = tmp_path / "out"
    code, said, err = run(data, "--detections", detections, "--out", out)
    assert code == 0, err
    found = json.loads((out / "suspects.json").read_text())
    schema = json.loads((resources.files("relabel.schemas") / "suspects.json").read_text())
    jsonschema.validate(found, schema)
    [pair] = found["split_classes"]
    assert (pair["classes"], pair["confused"], pair["by"]) == (
        ["car", "truck"],
        [0, 20],
        "annotator",
    )
    assert pair["groups"] == {"anna": [0, 40], "ben": [20, 20]}
    assert len(pair["annotation_ids"]) == 20 and pair["p_value"] < 1e-6
    reason = (
        "0 annotated car look like truck (0%), 20 annotated truck like car (33%); what looks alike "
        "is named differently by annotator"
    )
    assert f"split differently: {reason}" in said
    page = (out / "report.html").read_text()
    assert "Classes split differently" in page and reason in page and ">anna</th>" in page


def bare(annotations: list[Any], images: int, folder: Path) -> Path:
    for i in range(images):
        write_image(folder / f"{i}.png", 40, 30)
    return write_json(
        folder / "set.json",
        {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(images)
            ],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "car"}],
        },
    )


BOX = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}


@pytest.mark.parametrize(
    ("annotations", "images", "said"),
    [
        ([], 0, "has no images"),
        ([], 3, "has no boxes to check"),
        ([{**BOX, "iscrowd": 1}], 3, "has no boxes to check: all 1 are regions to ignore"),
        ([BOX], 1, "1 image cannot make 5 folds"),
        ([BOX], 4, "4 images cannot make 5 folds"),
        ([BOX], 5, "have no boxes to learn from"),
    ],
)
def test_what_cannot_be_checked_is_said_in_a_line(
    annotations: list[Any], images: int, said: str, tmp_path: Path, run: Run
) -> None:
    code, _, err = run(bare(annotations, images, tmp_path), "--out", tmp_path / "out", "--quiet")
    assert code == 1 and said in err
    assert err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 99}, "99"),
        ({"category_id": 7}, "7"),
        ({"score": 97}, "score 97"),
        ({"score": None}, "score"),
    ],
)
def test_detections_that_do_not_fit_are_refused_in_a_line(
    change: dict[str, Any], said: str, files: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    edit_json(files[1], lambda rows: rows[0].update(change))
    code, _, err = run(files[0], "--detections", files[1], "--out", tmp_path / "out", "--quiet")
    assert code == 1 and said in err and "detections.json" in err
    assert err.count("\n") == 1, err


def test_no_detections_are_refused(files: tuple[Path, Path], tmp_path: Path, run: Run) -> None:
    write_json(files[1], [])
    code, _, err = run(files[0], "--detections", files[1], "--out", tmp_path / "out", "--quiet")
    assert code == 1 and "holds no detections" in err


def test_names_with_markup_show_as_text(tmp_path: Path, run: Run) -> None:
    data, detections = write_street(suspicious(), tmp_path)

    def rename(coco: Any) -> None:
        coco["categories"][CAR]["name"] = "<script>alert('🚗')</script>"

    edit_json(data, rename)
    out = tmp_path / "out"
    assert run(data, "--detections", detections, "--out", out, "--quiet")[0] == 0
    page = (out / "report.html").read_text()
    assert page.count("<script") == 1 and "&lt;script&gt;" in page  # the page's own


def trained(data: Path, out: Path, backbone: Path, steps: int = 2) -> list[str]:
    """A check as a user runs it, with tiny detectors; what such find is another test's."""
    return [
        *(sys.executable, "-c", "from relabel.cli import main; main()", "check", str(data)),
        *("--out", str(out), "--folds", "2", "--steps", str(steps), "--image-size", "64"),
        *("--backbone", str(backbone), "--min-score", "0", "--device", "cpu"),
        *("--set", "specialist.fpn_channels=16", "--set", "specialist.head_channels=32"),
        *("--set", "specialist.frozen_stride=32", "--workers", "0"),
        *("--set", "specialist.checkpoint_every=0", "--set", "crosslabel.shard_images=8"),
    ]


@pytest.mark.slow
def test_specialists_are_trained_and_told_of(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = trained(files[0], out, tiny_backbone(tmp_path / "bb"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for text in ("specialist without fold 1 of 2", "predictions on what each has not seen"):
        assert text in done.stderr
    found = json.loads((out / "suspects.json").read_text())
    assert found["predictions_by"] == "2 specialists"
    assert len({s["annotation_id"] for s in found["suspects"]} - {None}) > 0
    page = (out / "report.html").read_text()
    assert "Time by stage" in page and "specialist without fold 2 of 2" in page


@pytest.mark.slow
def test_killed_checks_end_with_the_same_bytes(files: tuple[Path, Path], tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path / "bb")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(trained(files[0], whole, backbone, 12), check=True, capture_output=True)
    signs = [  # killed as soon as it has got this far
        "specialists/fold0/checkpoint",
        "specialists/fold0/stage.json",
        "predictions/fold0/shard-00001-of-00003.parquet",
        "predictions/stage.json",
        "suspects.json",
        "report.html",
    ]
    killed = 0
    for sign in signs:
        process = subprocess.Popen(
            trained(files[0], cut, backbone, 12),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        until = time.monotonic() + 240
        while process.poll() is None and not (cut / sign).exists() and time.monotonic() < until:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error.decode()
        killed += process.returncode != 0
    assert killed >= 4
    subprocess.run(trained(files[0], cut, backbone, 12), check=True, capture_output=True)
    names = ["suspects.json", "fiftyone/samples.json", "fiftyone/metadata.json"]
    names += [f"specialists/fold{k}/model.safetensors" for k in range(2)]
    names += [str(p.relative_to(whole)) for p in (whole / "predictions").rglob("*.parquet")]
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name
    # But for what it says of the run.
    pages = [(folder / "report.html").read_text() for folder in (whole, cut)]
    first, second = (page[: page.index('<section id="made">')] for page in pages)
    assert first == second
    assert sorted(p.name for p in cut.iterdir()) == sorted(p.name for p in whole.iterdir())


@pytest.mark.fiftyone
@pytest.mark.slow
def test_saved_views_in_the_real_database(
    files: tuple[Path, Path], tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    assert run(files[0], "--detections", files[1], "--out", out, "--quiet")[0] == 0
    found = json.loads((out / "suspects.json").read_text())["suspects"]
    _, env = loaded_by_view(out, database=tmp_path / "db")
    code = (
        "import fiftyone as fo, json; d = fo.load_dataset('relabel-out')\n"
        "views = {n: [len(d.load_saved_view(n)), d.load_saved_view(n).count('suspects.detections')]"
        " for n in d.list_saved_views()}\n"
        "best = d.load_saved_view('suspects: wrong class').first().suspects.detections[0]\n"
        "print(json.dumps([views, [best.label, best.annotated_class, best.annotation_id, "
        "best.reason, best.kind], d.count('ground_truth.detections')]))"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert seen.returncode == 0, seen.stderr
    views, best, annotations = json.loads(seen.stdout.strip().splitlines()[-1])
    expected = {}
    for kind in dict.fromkeys(s["kind"] for s in found):
        mine = [s["file_name"] for s in found if s["kind"] == kind]
        expected[f"suspects: {kind}"] = [len(set(mine)), len(mine)]
    expected["suspects"] = [len({s["file_name"] for s in found}), len(found)]
    assert views == expected
    assert best == ["truck", "car", 41, "looks like truck (0.96), as car 0.00", "wrong class"]
    assert annotations == 42
