"""COCO files as written, for measuring: what is kept, and what each kind of damage says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.datasets.formats.coco import decode as coco_decode
from relabel.datasets.formats.coco.as_written import read_as_written, read_results
from relabel.errors import DataError


def truth() -> dict[str, Any]:
    return {
        "images": [{"id": 20, "file_name": "b.jpg"}, {"id": 10, "file_name": "a.jpg"}],
        "categories": [{"id": 5, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 20, "category_id": 5, "bbox": [-5, 0, 600.125, 7]},
            {"id": 2, "image_id": 10, "category_id": 5, "bbox": [1, 2, 0, 4], "iscrowd": 1},
        ],
    }


def test_boxes_come_as_written(tmp_path: Path) -> None:
    content = truth()
    content["annotations"][0].update(
        area=11, score=0.1, relabel={"source_category": "vehicle", "origin": "source"}
    )
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content, indent=1))
    found = read_as_written(path)
    assert found.images.id.tolist() == [10, 20]
    assert found.images.file_name == ["a.jpg", "b.jpg"]
    boxes = found.boxes.take(np.array([1, 0]))  # in file order again
    assert found.boxes.image.tolist() == [0, 1]
    assert boxes.image.tolist() == [1, 0]
    assert boxes.id.tolist() == [1, 2]
    assert boxes.xywh.tolist() == [[-5, 0, 600.125, 7], [1, 2, 0, 4]]
    assert boxes.area.tolist() == [11, 0]
    assert boxes.ignore.tolist() == [False, True]
    assert boxes.score[0] == 0.1
    assert np.isnan(boxes.score[1])
    assert boxes.provenance is not None
    assert boxes.provenance.source_category == ["vehicle", ""]


def change(key: str, value: Any) -> dict[str, Any]:
    content = truth()
    content["annotations"][1][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change("bbox", [1, 2, 3]), r"annotation 2: bbox: .*length 4"),
        (change("bbox", [1, 2, 3, "x"]), r"annotation 2: bbox\[3\]: expected `float`"),
        (change("bbox", [1, 2, -3, 4]), r"annotation 2: .*negative size"),
        (change("bbox", [1, float("nan"), 3, 4]), r"annotation 2: .*not finite"),
        (change("bbox", [1, 2, float("inf"), 4]), r"annotation 2: .*not finite"),
        (change("bbox", None), r"annotation 2: bbox"),
        (change("image_id", 11), r"annotation 2: belongs to image 11, which is not in the file"),
        (change("image_id", "a"), r"annotation 2: image_id .a. is a text, not a whole number"),
        (change("category_id", 6), r"annotation 2: category_id 6 is not in the file's categories"),
        (change("image_id", 2**64), r"t\.json, annotation 2"),
        ({**truth(), "images": truth()["images"] * 2}, r"image id \d0 appears twice"),
        ({"annotations": []}, r"has no list `images`"),
        ([], r"is a list"),
    ],
)
def test_bad_truth_names_file_and_record(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        read_as_written(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    assert "--skip-bad" not in caught.value.remedy  # measuring skips nothing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file is empty"),
        ("  \n", "file is empty"),
        (json.dumps(truth())[:-30], "not valid JSON: it is cut off at its end"),
        ("{'images': 1}", "not valid JSON"),
        ("17", "t.json"),
        ("\x00\x01", "not valid JSON|t.json"),
        ("[" * 100_000, "t.json"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    reference = read_as_written(truth())
    for read in (lambda: read_as_written(path), lambda: read_results(path, reference)):
        with pytest.raises(DataError, match=message):
            read()


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_as_written(tmp_path / "none.json")
    with pytest.raises(DataError, match="is a folder"):
        read_as_written(tmp_path)


def result(**changes: Any) -> dict[str, Any]:
    return {"image_id": 20, "category_id": 5, "bbox": [0, 0, 5, 5], "score": 0.5, **changes}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (result(image_id=21), r"\[1\]: belongs to image 21, which is not in truth\.json"),
        (result(category_id=4), r"\[1\]: category_id 4 is not in truth\.json's categories"),
        (result(score=float("nan")), r"\[1\]: needs a finite `score`"),
        (result(score="high"), r"\[1\]: score: expected `float"),
        (result(bbox=[0, 0, float("nan"), 5]), r"\[1\]: bbox .*not finite"),
        ({"image_id": 20, "category_id": 5, "bbox": [0, 0, 5, 5]}, r"\[1\]: .*`score`"),
        (17, r"\[1\]: is not an object"),
    ],
)
def test_bad_results_name_the_record(tmp_path: Path, row: Any, message: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([result(), row]))
    reference = read_as_written(tmp_path / "truth.json")
    pattern = message.replace(r"truth\.json", r".*truth\.json")
    with pytest.raises(DataError, match=pattern) as caught:
        read_results(path, reference)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("end", ["", ",", "}", "]]", "] 7", "],"])
def test_results_that_do_not_end_where_they_should(tmp_path: Path, end: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([result(), result()])[:-1] + end)
    with pytest.raises(DataError, match=r"results\.json: not valid JSON"):
        read_results(path, read_as_written(truth()))


def test_results_are_read_in_blocks_like_annotations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [result(score=i / 8, image_id=(10, 20)[i % 2]) for i in range(8)]
    rows[3]["segmentation"] = [[{"a": 1}, {"b": 2}]]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows) + "\n")
    for size in (1, 100, 1 << 20):
        monkeypatch.setattr(coco_decode, "_BLOCK_BYTES", size)
        boxes = read_results(path, read_as_written(truth())).boxes
        # By image, and in it in the order of the file.
        assert boxes.score.tolist() == [i / 8 for i in (0, 2, 4, 6, 1, 3, 5, 7)]
        assert boxes.image.tolist() == [0] * 4 + [1] * 4


def test_names_that_are_missing_or_not_unique() -> None:
    content = truth()
    content["categories"] += [{"id": 6, "name": "car"}, {"id": 7}]
    del content["images"][0]["file_name"]
    found = read_as_written(content)
    assert found.space.class_names == ["car (id 5)", "car (id 6)", "7"]
    assert found.images.file_name == ["a.jpg", ""]
