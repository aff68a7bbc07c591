"""Reading the truth in all its formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from relabel.errors import ConfigError, DataError
from relabel.evaluation.multilabel.truths import Truths, detect, read_truths


def classes_of(labels: csr_array | None, image: int) -> list[int]:
    assert labels is not None
    return np.sort(labels[[image]].indices).tolist()


def labels(truth: Truths) -> dict[str, list[int]]:
    return {name: classes_of(truth.labels, i) for i, name in enumerate(truth.file_names)}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_real(tmp_path: Path) -> None:
    truth = read_truths(write(tmp_path / "real.json", [[3, 1], [], [2, 2]]))
    assert (truth.format, truth.imagenet) == ("real", True)
    assert labels(truth) == {
        "ILSVRC2012_val_00000001.JPEG": [1, 3],
        "ILSVRC2012_val_00000002.JPEG": [],
        "ILSVRC2012_val_00000003.JPEG": [2],
    }
    assert truth.notes == [f"{tmp_path / 'real.json'} holds 3 lists; ReaL has 50000"]


def test_real_itself(shared: Path) -> None:
    truth = read_truths(shared / "data" / "real" / "real.json")
    assert len(truth.file_names) == 50_000
    assert int((np.diff(truth.labels.indptr) == 0).sum()) == 3163
    assert truth.notes == []
    assert classes_of(truth.labels, 1) == [795, 970]


def test_inv2_ids_are_strings(tmp_path: Path) -> None:
    file = write(tmp_path / "ml.json", {"10/a.jpeg": ["10", "2"], "2/b.jpeg": [], "2/c.jpeg": [7]})
    truth = read_truths(file)
    assert truth.format == "inv2"
    assert labels(truth) == {"10/a.jpeg": [2, 10], "2/b.jpeg": [], "2/c.jpeg": [7]}


def test_imagenetv2_folders_are_numbers(tmp_path: Path) -> None:
    for name in ("10/x.jpeg", "2/y.jpeg", "0/z.jpeg", "0/readme.txt"):
        write(tmp_path / "v2" / name, "")
    truth = read_truths(tmp_path / "v2")
    assert truth.format == "imagenetv2"
    assert labels(truth) == {"0/z.jpeg": [0], "2/y.jpeg": [2], "10/x.jpeg": [10]}


def test_coco(tmp_path: Path) -> None:
    def box(image: int, category: int, **more: int) -> dict[str, Any]:
        return {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]} | more

    content = {
        "images": [
            {"id": 9, "file_name": "a.jpg"},
            {"id": 4, "coco_url": "http://images/val2017/b.jpg"},
            {"id": 5, "file_name": "c.jpg"},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 7, "name": "blur", "ignore": True},
            {"id": 13, "name": "stop sign"},
        ],
        "annotations": [
            *(box(9, 90), box(9, 1, iscrowd=1), box(9, 90), box(9, 13, ignore=1), box(9, 7)),
            *(box(4, 13), box(4, 13, ignore=1)),
        ],
    }
    truth = read_truths(write(tmp_path / "c.json", content))
    assert truth.format == "coco"
    assert truth.space is not None
    # By id, not in the file's order; the category to ignore is no class.
    assert truth.space.class_names == ["person", "stop sign", "toothbrush"]
    assert labels(truth) == {"a.jpg": [0, 2], "val2017/b.jpg": [1], "c.jpg": []}
    assert truth.ignored is not None
    assert [classes_of(truth.ignored, i) for i in range(3)] == [[1], [], []]


def voc(folder: Path, stem: str, objects: list[tuple[str, int]]) -> None:
    parts = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin>"
        "<ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
        for name, difficult in objects
    )
    size = "<size><width>9</width><height>9</height></size>"
    write(folder / f"{stem}.xml", f"<annotation>{size}{parts}</annotation>")


def test_voc_difficult_objects(tmp_path: Path) -> None:
    folder = tmp_path / "Annotations"
    voc(folder, "a", [("bird", 0), ("bird", 1), ("cow", 1)])
    voc(folder, "b", [("aeroplane", 0)])
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "b\n")
    truth = read_truths(tmp_path)
    assert truth.format == "voc"
    assert labels(truth) == {"a.jpg": [2], "b.jpg": [0]}
    assert truth.ignored is not None
    assert [classes_of(truth.ignored, i) for i in range(2)] == [[9], []]
    assert labels(read_truths(tmp_path / "ImageSets" / "Main" / "val.txt")) == {"b.jpg": [0]}
    assert labels(read_truths(folder / "a.xml")) == {"a.jpg": [2]}


def test_voc_and_coco_of_the_same_photos(shared: Path) -> None:
    folder = shared / "data" / "voc100"
    xml, coco = read_truths(folder), read_truths(folder / "coco.json")
    assert (len(xml.file_names), xml.format, coco.format) == (100, "voc", "coco")
    assert xml.space is not None
    assert coco.space is not None
    by_name = {name: {coco.space.class_names[k] for k in ids} for name, ids in labels(coco).items()}
    assert xml.ignored is not None
    for i, (name, ids) in enumerate(labels(xml).items()):
        names = {xml.space.class_names[k] for k in ids + classes_of(xml.ignored, i)}
        assert names == by_name[name]  # that COCO file does not tell difficult objects apart
    assert xml.ignored.nnz > 0


def test_tsv_threshold_and_original_label(tmp_path: Path) -> None:
    file = write(tmp_path / "t.tsv", "a.JPEG\t5\t7,2\t0.5000,0.4999\nb.JPEG\t1\t1,0\t0.9,0.8\n")
    truth = read_truths(file)
    assert truth.format == "tsv"
    assert labels(truth) == {"a.JPEG": [5, 7], "b.JPEG": [0, 1]}
    assert labels(read_truths(file, threshold=0.85)) == {"a.JPEG": [5], "b.JPEG": [1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[1], [-2]], r"list 1 \(ILSVRC2012_val_00000002.JPEG\): class id -2"),
        ([[1], 7], r"\[1\]: expected 'array', got 'int'"),
        ({"a.jpg": ["1", "n02"]}, "image 'a.jpg': class id 'n02'"),
        ({"a.jpg": ["-1"]}, "image 'a.jpg': class id -1"),
        ('{"a.jpg": ["1"', "not valid JSON"),
        ("", "file is empty"),
        ("a,b,c", "none of the known kinds of truth"),
    ],
)
def test_errors(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_truths(write(tmp_path / "truth.json", content))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"a.jpg": [], "b.jpg": [3, 1]}, "partial"),
        ({"a.jpg": [], "b.jpg": ["3"]}, "inv2"),
        ({"a.jpg": []}, "inv2"),
    ],
)
def test_lists_of_numbers_are_partial_labels(tmp_path: Path, content: Any, kind: str) -> None:
    assert detect(write(tmp_path / "labels.json", content)) == kind


def test_format_can_be_forced(tmp_path: Path) -> None:
    file = write(tmp_path / "t", {"images": ["1"], "annotations": ["2"]})
    assert detect(file) == "coco"
    assert labels(read_truths(file, "inv2")) == {"images": [1], "annotations": [2]}
    with pytest.raises(ConfigError, match="unknown truth format 'reel'"):
        read_truths(file, "reel")
