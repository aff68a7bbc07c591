"""``relabel evaluate multilabel`` through the root command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.cli import main

_NAME = "ILSVRC2012_val_{:08d}"


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "multilabel", *map(str, args)])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def real(tmp_path: Path) -> Path:
    file = tmp_path / "real.json"
    file.write_text("[[0], [], [1, 2], [0, 1, 3]]")
    return file


def predictions(path: Path, images: list[int], **more: Any) -> Path:
    rows = {
        1: [0.9, 0.1, 0.5, 0.3],  # 0 is first: AP 1
        2: [0.0, 0.0, 0.0, 1.0],
        3: [0.8, 0.6, 0.4, 0.2],  # 1 and 2 are second and third: AP (1/2 + 2/3) / 2 = 7/12
        4: [0.1, 0.7, 0.9, 0.3],  # 1, 3, 0 are second to fourth: AP (1/2 + 2/3 + 3/4) / 3 = 23/36
    }
    names = [f"val/n01/{_NAME.format(i)}.JPEG" for i in images]
    pq.write_table(pa.table({"filename": names, "scores": [rows[i] for i in images]}), path)
    return path


def test_json(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    file = predictions(tmp_path / "p.parquet", [4, 1, 3])  # none for the image without labels
    code, text, err = run(capsys, "--truth", real, "--predictions", file, "--json", "--out", out)
    assert code == 0
    content = json.loads(text)
    assert json.loads(out.read_text()) == content
    assert list(content)[:5] == ["images", "top1", "example_mAP", "class_mAP", "buckets"]
    assert content["images"] == 3
    assert content["skipped"] == 1
    assert content["top1"] == pytest.approx(1 / 3)
    assert content["example_mAP"] == pytest.approx((1 + 7 / 12 + 23 / 36) / 3)
    assert content["class_mAP"] == pytest.approx((5 / 6 + 1 + 1 / 3 + 1 / 2) / 4)
    assert content["buckets"] == {
        "1": pytest.approx(1),
        "2": pytest.approx(7 / 12),
        ">=3": pytest.approx(23 / 36),
    }
    assert content["class_AP"]["2"] == pytest.approx(1 / 3)
    assert "real.json holds 4 lists; ReaL has 50000" in err
    assert "scores are over 4 classes; ImageNet has 1000" in err


def test_table_and_empty_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, file = tmp_path / "truth.json", tmp_path / "p.tsv"
    truth.write_text('{"10/a.jpeg": ["10", "2"], "2/b.jpeg": ["2", "7"], "2/c.jpeg": []}')
    file.write_text("v2/10/a.jpeg\t10\t10,2\t0.9,0.8\nv2/2/b.jpeg\t2\t9,7,2\t0.9,0.8,0.7\n")
    args = ("--truth", truth, "--predictions", file)
    code, text, _ = run(capsys, *args)
    assert code == 0
    # b: second and third, (1/2 + 2/3) / 2 = 58.3 %; with a: 79.2 %.
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "50.0" in lines["top-1"]
    assert "1 image " in lines["without a label, skipped"]
    assert "79.2" in lines["mAP over images"]
    assert "- │" in lines["of 1 label"]
    assert "79.2" in lines["of 2 labels"]
    code, text, _ = run(capsys, *args, "--json")
    assert json.loads(text)["buckets"] == {"1": None, "2": pytest.approx(19 / 24), ">=3": None}


def test_missing_and_unknown_images(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = predictions(tmp_path / "p.parquet", [1, 2, 4])
    args = ("--truth", real, "--predictions", file, "--json")
    code, text, err = run(capsys, *args)
    assert (code, text) == (1, "")
    assert "no prediction for 1 of 3 images" in err
    assert f"the first is '{_NAME.format(3)}.JPEG'" in err
    code, text, err = run(capsys, *args, "--allow-missing")
    assert code == 0
    content = json.loads(text)
    assert (content["missing"], content["missing_images"]) == (1, [_NAME.format(3) + ".JPEG"])
    # All four classes tie where nothing is predicted: two of four are true, and none is highest.
    assert content["example_mAP"] == pytest.approx((1 + 2 / 4 + 23 / 36) / 3)
    assert content["top1"] == pytest.approx(1 / 3)

    real.write_text("[[0]]")
    code, text, err = run(capsys, *args)
    assert code == 0
    assert json.loads(text)["unknown"] == 2
    assert "2 predictions are for images that" in err

    other = tmp_path / "other.json"
    other.write_text('{"x.jpeg": ["1"]}')
    code, _, err = run(capsys, "--truth", other, "--predictions", file)
    assert code == 1
    assert "has no image in common" in err


def test_usage(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, "--help")
    assert code == 0
    assert "scikit-learn" in text
    assert run(capsys, "--truth", real)[0] == 2
    assert run(capsys, "--truth", real, "--predictions", "p", "--truth-format", "x")[0] == 2


def test_labels_of_real_photos_against_their_boxes(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The largest object alone is right, but one of several: the buckets must show it."""
    from relabel.datasets.formats.registry import read_dataset

    folder = shared / "data" / "voc100"
    dataset = read_dataset(folder, "voc")
    lines = []
    for row, name in enumerate(dataset.images.file_name):
        part = dataset.rows(row)
        sizes = dataset.boxes.area[part] * ~dataset.boxes.ignore[part]
        label = int(dataset.boxes.category[part][sizes.argmax()])
        lines.append(f"JPEGImages/{name}\t{label}\t{label}\t1.0000\n")
    file = tmp_path / "largest.tsv"
    file.write_text("".join(lines))
    code, text, _ = run(capsys, "--truth", folder, "--predictions", file, "--json")
    assert code == 0
    content = json.loads(text)
    assert content["images"] == 100
    assert content["top1"] == 1.0
    assert content["buckets"]["1"] == 1.0
    # The others tie with the 19 classes that are not listed: precision k of (20 - ignored).
    assert 0.5 < content["buckets"]["2"] < 0.6
    assert content["buckets"][">=3"] < content["buckets"]["2"]


@pytest.fixture
def completed(tmp_path: Path) -> dict[str, Path]:
    """A truth of which one entry is unknown, labels of half of it, and scores."""
    files = {name: tmp_path / f"{name}.csv" for name in ("truth", "known")}
    head = "file_name,cat,dog\n"
    files["truth"].write_text(f"{head}a.jpg,1,-1\nb.jpg,-1,1\nc.jpg,-1,-1\nd.jpg,1,0\n")
    files["known"].write_text(f"{head}a.jpg,1,0\nb.jpg,0,0\nc.jpg,0,-1\n")
    files["scores"] = tmp_path / "scores.parquet"
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    table = pa.table({"file_name": names, "scores": [[0.9, 0.6], [0.2, 0.4], [0.8, 0.1], [0.7, 1]]})
    metadata = {"class_names": '["cat", "dog"]'}
    pq.write_table(table.replace_schema_metadata(metadata), files["scores"])
    return files


def test_recognition_counts_images_without_a_class(completed: dict[str, Path], capsys: Any) -> None:
    arguments = ("--truth", completed["truth"], "--predictions", completed["scores"])
    code, text, _ = run(capsys, *arguments, "--json")
    assert code == 0
    content = json.loads(text)
    # cat: a .9 right, c .8 wrong, d .7 right, b; dog: a .6 wrong, b .4 right, c; d is unknown.
    assert content["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert content["class_mAP"] == pytest.approx((1 + 1 / 2) / 2)  # without c.jpg
    assert (content["CP"], content["CR"]) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert content["CF1"] == pytest.approx(0.4)
    assert content["OF1"] == pytest.approx(2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3))
    assert (content["entries"], content["images"], content["skipped"]) == (7, 3, 1)
    code, text, _ = run(capsys, *arguments)
    assert code == 0
    assert "CF1 at 0.5" in text
    assert "7 entries" in text


def test_known_entries_do_not_count(completed: dict[str, Path], capsys: Any) -> None:
    arguments = ("--truth", completed["truth"], "--predictions", completed["scores"])
    code, text, _ = run(capsys, *arguments, "--known", completed["known"], "--json")
    assert code == 0
    content = json.loads(text)
    # Left are cat of b, c, d (right third, at .7 below c's .8) and dog of a, b.
    assert content["entries"] == 5
    assert content["mAP"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert content["CF1"] == pytest.approx(2 * (1 / 4) * (1 / 2) / (3 / 4))
    assert content["images"] == 2
    code, text, _ = run(capsys, *arguments, "--threshold", "0.75", "--json")
    assert json.loads(text)["CR"] == pytest.approx(1 / 4)


def test_known_labels_that_do_not_fit(completed: dict[str, Path], capsys: Any) -> None:
    arguments = ("--truth", completed["truth"], "--predictions", completed["scores"], "--known")
    known = completed["known"]
    for text, message in (
        ("file_name,cat\nz.jpg,1\n", "has no image in common"),
        ("file_name,cow\na.jpg,1\n", "has no class in common"),
        ("file_name,cat,cat\na.jpg,1,1\n", "class 'cat' is there twice"),
    ):
        known.write_text(text)
        code, _, err = run(capsys, *arguments, known)
        assert code == 1
        assert message in err
        assert len(err.strip().splitlines()) == 1
    code, _, err = run(capsys, *arguments, completed["truth"])
    assert code == 1
    assert "has no label that" in err
    known.write_text("file_name,cat,cow\na.jpg,-1,1\n")
    code, _, err = run(capsys, *arguments, known)
    assert code == 0
    assert "1 of 2 classes" in err


def test_known_labels_by_number(real: Path, tmp_path: Path, capsys: Any) -> None:
    file = predictions(tmp_path / "p.parquet", [4, 1, 3])
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"classes": ["0", "1"], "images": [
        {"file_name": f"{_NAME.format(4)}.JPEG", "present": [0], "absent": [1]}]}))  # fmt: skip
    code, text, _ = run(capsys, "--truth", real, "--predictions", file, "--known", known, "--json")
    assert code == 0
    assert json.loads(text)["entries"] == 10  # three images of four classes, less two
