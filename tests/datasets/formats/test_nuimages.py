"""The nuImages reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.formats import records
from relabel.datasets.formats.nuimages import read
from relabel.errors import DataError, Problems
from tests.builders import native
from tests.builders.datasets import edit_json


def load(root: Path, problems: Problems | None = None, **options) -> DetectionDataset:
    options = {"name": "nu", "split": None} | options
    return read(root, problems=problems or Problems(), **options)


def rows(dataset: DetectionDataset) -> list[tuple[str, str, list[float], bool]]:
    boxes = dataset.boxes
    return [
        (dataset.images.file_name[int(i)], dataset.space.names[c], box.tolist(), bool(g))
        for i, c, box, g in zip(boxes.image, boxes.category, boxes.xyxy, boxes.ignore, strict=True)
    ]


EXPECTED = [
    ("samples/CAM_FRONT/a.jpg", "human.pedestrian.adult", [10, 20, 30, 80], False),
    ("samples/CAM_FRONT/a.jpg", "static_object.bicycle_rack", [500, 400, 700, 450], True),
    ("samples/CAM_BACK/c.jpg", "vehicle.car", [0, 100, 1600, 900], False),
]


def test_tables_are_joined(tmp_path: Path):
    dataset = load(native.nuimages(tmp_path))
    # The sweep between the key frames is no image of the dataset.
    assert dataset.images.file_name == ["samples/CAM_FRONT/a.jpg", "samples/CAM_BACK/c.jpg"]
    assert dataset.images.width.tolist() == [1600, 1600]
    assert dataset.images.height.tolist() == [900, 900]
    assert rows(dataset) == EXPECTED
    assert dataset.boxes.extra is not None
    assert json.loads(dataset.boxes.extra[2] or b"") == {
        "token": "o0",
        "attributes": {"vehicle.moving": True},
    }


@pytest.mark.parametrize("split", ["train", "v1.0-train", None])
def test_split_names(tmp_path: Path, split: str | None):
    native.nuimages(tmp_path, version="v1.0-val")
    native.nuimages(tmp_path)
    (tmp_path / "v1.0-val/object_ann.json").write_text("[]")
    assert rows(load(tmp_path, split=split)) == EXPECTED
    assert len(load(tmp_path, split="val").boxes) == 0
    with pytest.raises(DataError, match=r"has no split 'mini'\. Known: train, val"):
        load(tmp_path, split="mini")


def test_table_folder_as_path_and_the_only_split(tmp_path: Path):
    native.nuimages(tmp_path, version="v1.0-mini")
    for dataset in (load(tmp_path), load(tmp_path / "v1.0-mini")):
        assert dataset.root == tmp_path
        assert rows(dataset) == EXPECTED


def test_key_frames_by_flag_alone(tmp_path: Path):
    native.nuimages(tmp_path)
    edit_json(
        tmp_path / "v1.0-train/sample.json",
        lambda table: [row.pop("key_camera_token") for row in table],
    )
    assert rows(load(tmp_path)) == EXPECTED


def test_tables_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "_CHUNK_BYTES", 10)
    native.nuimages(tmp_path)
    assert rows(load(tmp_path)) == EXPECTED
    file = tmp_path / "v1.0-train/object_ann.json"
    # Braces inside strings look like the border of two records.
    edit_json(file, lambda t: t[1].update(note='"}, {"'))
    assert rows(load(tmp_path)) == EXPECTED
    edit_json(file, lambda t: t[2].update(bbox=[1, 2, 3]))
    problems = Problems(skip_bad=True)
    assert rows(load(tmp_path, problems)) == [EXPECTED[0], EXPECTED[2]]
    assert [p.record for p in problems.errors] == ["record 2 (token o2)"]


def edit(table: str, row: int, **values):
    def damage(root: Path) -> None:
        edit_json(root / f"v1.0-train/{table}.json", lambda content: content[row].update(values))

    return damage


def append(table: str, row: int):
    def damage(root: Path) -> None:
        edit_json(root / f"v1.0-train/{table}.json", lambda content: content.append(content[row]))

    return damage


@pytest.mark.parametrize(
    ("damage", "table", "message", "left"),
    [
        (edit("object_ann", 0, sample_data_token="zz"), "object_ann", "token o0: .*'zz'", 2),
        (edit("object_ann", 0, sample_data_token="d1"), "object_ann", "'d1' is no key frame", 2),
        (edit("object_ann", 0, category_token="zz"), "object_ann", "'zz' is not in category", 2),
        (edit("object_ann", 0, category_token="c3"), "object_ann", "category 'vehicle.ego'", 2),
        (edit("object_ann", 0, attribute_tokens=["q"]), "object_ann", "'q' is not in attrib", 2),
        (edit("object_ann", 0, bbox=[0, float("nan"), 5, 5]), "object_ann", "not finite", 2),
        (edit("object_ann", 0, bbox=[9, 0, 5, 5]), "object_ann", "token o0: .* negative size", 2),
        (edit("object_ann", 0, bbox=[1, 2, 3]), "object_ann", "record 0 .*length 4, got 3", 2),
        (edit("object_ann", 0, bbox=[1, 2, 3, "4"]), "object_ann", "got `str`", 2),
        (edit("object_ann", 0, bbox=None), "object_ann", "got `null`", 2),
        (append("object_ann", 0), "object_ann", "token 'o0' appears twice", 3),
        (append("category", 0), "category", "token 'c0' appears twice", 3),
        (append("sample_data", 0), "sample_data", "token 'd0' appears twice", 3),
        (edit("sample_data", 2, filename="samples/../../x.jpg"), "sample_data", "leads out", 2),
        (edit("sample_data", 2, filename="/etc/passwd"), "sample_data", "is not relative", 2),
        (edit("sample_data", 2, filename="samples/CAM_FRONT/a.jpg"), "sample_data", "twice", 2),
        (edit("sample_data", 2, width=0), "sample_data", "size 0x900", 2),
        (edit("sample", 0, key_camera_token="zz"), "sample", "'zz' is not in sample_data", 3),
    ],
)
def test_bad_records(tmp_path: Path, damage, table: str, message: str, left: int):
    damage(native.nuimages(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.file == str(tmp_path / f"v1.0-train/{table}.json")
    assert caught.value.record and caught.value.remedy
    problems = Problems(skip_bad=True)
    dataset = load(tmp_path, problems)
    assert problems.errors
    # Records that lean on a skipped one are skipped as well.
    assert len(dataset.boxes) == left


@pytest.mark.parametrize("table", ["category", "sample", "sample_data", "object_ann"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "file is empty"),
        ('[{"token": "a", "na', "not valid JSON"),
        ('{"token": "a"}', "not a JSON list"),
    ],
)
def test_bad_tables(tmp_path: Path, table: str, content: str | None, message: str):
    file = native.nuimages(tmp_path) / f"v1.0-train/{table}.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert caught.value.file == str(file)


def test_boxes_over_the_edge_are_clipped_and_counted(tmp_path: Path):
    native.nuimages(tmp_path)
    edit("object_ann", 0, bbox=[1500, 800, 1700, 1000])(tmp_path)
    edit("object_ann", 1, bbox=[10, 20, 10, 80])(tmp_path)
    edit("object_ann", 2, bbox=[-30, -30, -10, -10])(tmp_path)
    problems = Problems()
    dataset = load(tmp_path, problems)
    assert [r[2] for r in rows(dataset)] == [[1500, 800, 1600, 900]]
    assert list(problems.counts.values()) == [1, 1, 1]
