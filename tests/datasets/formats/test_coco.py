import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from relabel.datasets.dataset import Provenance, make_boxes
from relabel.datasets.formats.coco import decode as coco_decode
from relabel.datasets.formats.coco.write import write
from relabel.datasets.formats.registry import read_dataset, write_dataset
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems, RelabelError
from relabel.files.opening import read_bytes


def document(**changes):
    """Two images, three boxes, ids in no order, categories with a gap."""
    data = {
        "info": {"description": "two streets"},
        "licenses": [{"id": 4, "name": "CC BY"}],
        "images": [
            {"id": 70, "file_name": "b.jpg", "width": 100, "height": 50, "license": 4},
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
        ],
        "categories": [
            {"id": 3, "name": "car", "supercategory": "vehicle"},
            {"id": 17, "name": "cat", "keypoints": ["ear"]},
        ],
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": 17, "bbox": [1, 2, 3.3, 4.7], "area": 9.25},
            {
                "id": 6,
                "image_id": 70,
                "category_id": 3,
                "bbox": [10.1, 0.2, 20.3, 30.4],
                "area": 600.5,
                "iscrowd": 0,
                "segmentation": [[10.1, 0.2, 30.4, 0.2, 30.4, 30.6]],
                "attributes": {"far": True},
            },
            {
                "id": 9,
                "image_id": 70,
                "category_id": 3,
                "bbox": [0, 0, 100, 50],
                "area": 77,
                "iscrowd": 1,
                "segmentation": {"size": [50, 100], "counts": [5, 10, 4985]},
            },
        ],
    }
    return {**data, **changes}


def put(folder: Path, data, name="a.json") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def with_annotation(**fields):
    data = document()
    data["annotations"][1].update(fields)
    return data


def test_columns_are_those_of_the_file(tmp_path):
    dataset = read_dataset(put(tmp_path, document()), "coco")
    assert dataset.images.id.tolist() == [70, 7]
    assert dataset.images.width.tolist() == [100, 40]
    assert dataset.space.names == ["car", "cat"]
    assert dataset.space.ids.tolist() == [3, 17]
    # Grouped by image; the file's order within each.
    assert dataset.boxes.id.tolist() == [6, 9, 5]
    assert dataset.boxes.image.tolist() == [0, 0, 1]
    assert dataset.boxes.category.tolist() == [0, 0, 1]
    assert dataset.boxes.xywh.tolist() == [
        [10.1, 0.2, 20.3, 30.4],
        [0, 0, 100, 50],
        [1, 2, 3.3, 4.7],
    ]
    assert dataset.boxes.area.tolist() == [600.5, 77, 9.25]
    assert dataset.boxes.ignore.tolist() == [False, True, False]
    assert np.isnan(dataset.boxes.score).all()
    assert dataset.boxes.extra is not None
    assert json.loads(dataset.boxes.extra[0] or b"") == {
        "segmentation": [[10.1, 0.2, 30.4, 0.2, 30.4, 30.6]],
        "attributes": {"far": True},
    }
    assert dataset.boxes.extra[2] is None


def test_read_and_written_unchanged_is_the_same_document(tmp_path):
    before = document()
    out = write_dataset(read_dataset(put(tmp_path, before), "coco"), "coco", tmp_path / "o.json")[0]
    after = json.loads(out.read_bytes())
    assert after["info"].pop("relabel") == {"root": "."}
    before["annotations"][0]["iscrowd"] = 0
    assert after == before


def test_the_same_dataset_gives_the_same_bytes(tmp_path):
    dataset = read_dataset(put(tmp_path, document()), "coco")
    first = write(dataset, tmp_path / "1.json")[0].read_bytes()
    again = read_dataset(tmp_path / "1.json", "coco")
    assert write(again, tmp_path / "2.json")[0].read_bytes() == first


finite = st.floats(0.001, 500, allow_nan=False)
corner = st.floats(0, 400, allow_nan=False)
an_object = st.tuples(
    st.integers(0, 3), corner, corner, finite, finite, st.booleans(), st.integers(0, 2)
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.lists(an_object, max_size=12), scores=st.booleans())
def test_round_trip_keeps_every_number(tmp_path, objects, scores):
    data = {
        "images": [
            {"id": 10 - i, "file_name": f"d/{i}.jpg", "width": 1000, "height": 1000}
            for i in range(4)
        ],
        "categories": [{"id": 5 + i, "name": f"ä{i}"} for i in range(3)],
        "annotations": [
            {"id": i, "image_id": 10 - image, "category_id": 5 + c, "bbox": [x, y, w, h]}
            | {"area": w * h, "iscrowd": int(crowd), **({"score": 0.1 * i} if scores else {})}
            for i, (image, x, y, w, h, crowd, c) in enumerate(objects)
        ],
    }
    dataset = read_dataset(put(tmp_path, data), "coco")
    after = json.loads(write(dataset, tmp_path / "out.json")[0].read_bytes())
    assert after["images"] == data["images"]
    assert after["categories"] == data["categories"]
    for row, want in zip(after["annotations"], data["annotations"], strict=True):
        # Scores are float32, written with the digits that float32 needs.
        assert np.float32(row.pop("score", 0)) == np.float32(want.pop("score", 0))
        assert row == want


def test_provenance_becomes_a_relabel_object(tmp_path):
    dataset = read_dataset(put(tmp_path, document()), "coco")
    boxes = make_boxes(
        [0, 1],
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [0, 1],
        score=[0.9, np.nan],
        extra=[b'{"relabel":{"old":1},"attributes":{"k":2}}', None],
        provenance=Provenance(
            "legacy", ["source", "pseudo:fine"], np.array([44, -1]), ["lorry", ""],
            np.array([0.5, np.nan], np.float32),
        ),
    )  # fmt: skip
    out = write(dataset.with_boxes(boxes), tmp_path / "o.json")[0]
    first, second = json.loads(out.read_bytes())["annotations"]
    assert first["relabel"] == {
        "source_dataset": "legacy",
        "source_annotation_id": 44,
        "source_category": "lorry",
        "origin": "source",
        "score": 0.9,
        "source_iou": 0.5,
    }
    assert first["score"] == 0.9
    assert first["attributes"] == {"k": 2}
    assert "score" not in second
    assert second["relabel"]["source_annotation_id"] is None
    assert second["relabel"]["source_category"] is None
    assert second["relabel"]["source_iou"] is None
    assert second["relabel"]["origin"] == "pseudo:fine"


BAD = {
    "empty": ("", "empty"),
    "truncated": (json.dumps(document())[:-40], "cut off"),
    "not json": ("hello", "not valid JSON"),
    "results list": ("[]", "results"),
    "no annotations": ({k: v for k, v in document().items() if k != "annotations"}, "annotations"),
    "short bbox": (with_annotation(bbox=[1, 2, 3]), "annotation 6: bbox: expected `array`"),
    "text in bbox": (with_annotation(bbox=[1, 2, "3", 4]), "annotation 6: bbox"),
    "null bbox": (with_annotation(bbox=None, segmentation=[]), "annotation 6: bbox"),
    "nan": (with_annotation(bbox=[1, float("nan"), 3, 4]), "annotation 6: bbox .* not finite"),
    "infinite": (with_annotation(bbox=[1, 2, float("inf"), 4]), "annotation 6: bbox .* not finite"),
    "negative": (with_annotation(bbox=[1, 2, -3, 4]), "annotation 6: bbox .* negative size"),
    "text id": (with_annotation(image_id="a"), "annotation 6: image_id .a. is a text, not a"),
    "fractional id": (with_annotation(category_id=3.5), "annotation 6: category_id"),
    "huge id": (with_annotation(category_id=2**70), "annotation 6: category_id"),
    "no such image": (with_annotation(image_id=71), "annotation 6: belongs to image 71"),
    "no such category": (with_annotation(category_id=4), "annotation 6: category_id 4"),
    "duplicate image": (
        document(images=[*document()["images"], document()["images"][0] | {"file_name": "c.jpg"}]),
        "image 70: image id 70 appears twice",
    ),
    "duplicate category": (
        document(categories=[*document()["categories"], {"id": 3, "name": "dog"}]),
        "category 3",
    ),
    "traversal": (
        document(images=[{"id": 7, "file_name": "x/../../a.jpg", "width": 9, "height": 9}]),
        "image 7: file_name .* leads out",
    ),
    "backslashes": (
        document(images=[{"id": 7, "file_name": "..\\a.jpg", "width": 9, "height": 9}]),
        "image 7: file_name .* leads out",
    ),
    "absolute": (
        document(images=[{"id": 7, "file_name": "/etc/passwd", "width": 9, "height": 9}]),
        "image 7: file_name .* not relative",
    ),
    "no name": (document(images=[{"id": 7, "width": 9, "height": 9}]), "image 7: has neither"),
    "no size": (document(images=[{"id": 7, "file_name": "q.jpg"}]), "image 7: has no width"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_in_one_line(tmp_path, case):
    data, expected = BAD[case]
    file = put(tmp_path, data)
    with pytest.raises(DataError, match=expected) as caught:
        read_dataset(file, "coco")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "case",
    ["short bbox", "nan", "negative", "text id", "no such image", "no such category"],
)
def test_skip_bad_leaves_out_only_the_bad_record(tmp_path, case):
    problems = Problems(skip_bad=True)
    dataset = read_dataset(put(tmp_path, BAD[case][0]), "coco", problems=problems)
    assert dataset.boxes.id.tolist() == [9, 5]
    assert [p.record for p in problems.errors] == ["annotation 6"]
    assert json.loads((dataset.boxes.extra or [b""])[0] or b"")["segmentation"]["size"] == [50, 100]


def test_boxes_outside_are_clipped_or_dropped_and_counted(tmp_path):
    data = document()
    boxes = [[-5, -5, 20, 20], [90, 40, 20, 20], [120, 0, 5, 5], [3, 3, 0, 8], [0, 0, 100, 50]]
    data["annotations"] = [
        {"id": i, "image_id": 70, "category_id": 3, "bbox": b, "area": b[2] * b[3]}
        for i, b in enumerate(boxes)
    ]
    problems = Problems()
    dataset = read_dataset(put(tmp_path, data), "coco", problems=problems)
    assert dataset.boxes.id.tolist() == [0, 1, 4]
    assert dataset.boxes.xywh.tolist() == [[0, 0, 15, 15], [90, 40, 10, 10], [0, 0, 100, 50]]
    assert dataset.boxes.area.tolist() == [225, 100, 5000]
    assert sorted(problems.counts.values()) == [1, 1, 2]
    assert problems.ok


def test_what_real_files_leave_out_or_write_otherwise(tmp_path):
    data = document()
    for i, row in enumerate(data["annotations"]):
        row.pop("id", None)
        row["image_id"] = float(row["image_id"])
        if i == 0:
            row.pop("area")
            row["ignore"] = 1
    file = put(tmp_path, data)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    dataset = read_dataset(file, "coco")
    assert sorted(dataset.boxes.id.tolist()) == [1, 2, 3]
    row = dataset.boxes.id.tolist().index(1)
    assert dataset.boxes.area[row] == pytest.approx(3.3 * 4.7)
    assert dataset.boxes.ignore[row]


def test_lvis_takes_the_name_from_the_url_and_keeps_its_fields(tmp_path):
    url = "http://images.example.org/train2017/000000000007.jpg"
    image = {"id": 7, "coco_url": url, "width": 40, "height": 30, "neg_category_ids": [3, 17]}
    data = document(images=[image], annotations=document()["annotations"][:1])
    dataset = read_dataset(put(tmp_path, data), "coco")
    assert list(dataset.images.file_name) == ["train2017/000000000007.jpg"]
    out = write(dataset, tmp_path / "o.json")[0]
    assert json.loads(out.read_bytes())["images"][0] == image | {
        "file_name": "train2017/000000000007.jpg"
    }


def test_sizes_missing_in_the_file_come_from_the_image(tmp_path):
    Image.new("RGB", (31, 17)).save(tmp_path / "a.jpg")
    data = document(images=[{"id": 7, "file_name": "a.jpg"}], annotations=[])
    dataset = read_dataset(put(tmp_path, data), "coco")
    assert (dataset.images.width[0], dataset.images.height[0]) == (31, 17)


def test_a_given_space_is_spoken_by_name(tmp_path):
    space = LabelSpace.from_names("mine", ["Cat", "dog", "car"])
    dataset = read_dataset(put(tmp_path, document()), "coco", space=space)
    assert [dataset.space.names[c] for c in dataset.boxes.category] == ["car", "car", "Cat"]
    with pytest.raises(DataError, match="'cat' is not in label space"):
        read_dataset(tmp_path / "a.json", "coco", space=LabelSpace.from_names("no", ["car"]))


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_train2017.json", "images/train2017", "train"),
        ("train.json", "", "train"),
        ("train.json", "images", "train"),
        ("valid/_annotations.coco.json", "valid", "valid"),
        ("annotations/instances_val2017.json", "val2017", None),
    ],
)
def test_usual_layouts_are_found(tmp_path, file, images, split):
    put(tmp_path, document(), file)
    (tmp_path / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 50)).save(tmp_path / images / "b.jpg")
    put(tmp_path, {}, "annotations/captions_train2017.json")
    for path in (tmp_path, tmp_path / file):
        dataset = read_dataset(path, "coco", split=split)
        assert dataset.image_path(0).resolve() == (tmp_path / images / "b.jpg").resolve()


def test_several_files_ask_for_a_choice(tmp_path):
    put(tmp_path, document(), "train.json")
    put(tmp_path, document(), "test.json")
    with pytest.raises(DataError, match=r"test\.json, train\.json"):
        read_dataset(tmp_path, "coco")
    assert len(read_dataset(tmp_path, "coco", annotations="test.json")) == 2
    with pytest.raises(DataError, match="no COCO annotation file for split 'val'"):
        read_dataset(tmp_path, "coco", split="val")


def test_the_stated_root_leads_back_to_the_images(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (100, 50)).save(tmp_path / "data" / "b.jpg")
    dataset = read_dataset(put(tmp_path / "data", document()), "coco")
    out = write(dataset, tmp_path / "runs" / "deep" / "o.json")[0]
    assert json.loads(out.read_bytes())["info"]["relabel"]["root"] == "../../data"
    assert read_dataset(out, "coco").image_path(0).is_file()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    dataset = read_dataset(put(tmp_path, document()), "coco")
    target = tmp_path / "out" / "o.json"

    def pieces(*_):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("relabel.datasets.formats.coco.write.encode", pieces)
    with pytest.raises(RelabelError, match=r"full|No space"):
        write(dataset, target)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("block", [1, 200, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_all_ways_of_decoding_agree(tmp_path, monkeypatch, block, indent):
    data = document()
    rows = data["annotations"]
    # What looks like the end of a record and is none: in lists, objects and texts.
    rows[0]["parts"] = [{"a": 1}, {"b": [{}, {"c": 2}]}, {"id": 1}]
    rows[1]["no te"] = 'a text with "},{" and }, { in it'
    rows[2]["ignore"] = 1
    rows.append({"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "score": 0.25})
    rows.append({"id": 30, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "area": None})
    file = put(tmp_path, json.dumps(data, indent=indent))
    monkeypatch.setattr(coco_decode, "_BLOCK_BYTES", block)
    fast = coco_decode._decode_fast(read_bytes(file), file)
    slow = coco_decode.decode_slowly(read_bytes(file), file, Problems())
    assert fast.fields == slow.fields == {k: data[k] for k in ("info", "licenses")}
    assert fast.categories == slow.categories
    for ours, theirs in ((fast.images, slow.images), (fast.annotations, slow.annotations)):
        for name, column in vars(ours).items():
            other = getattr(theirs, name)
            if name == "extra":
                assert list(map(fields_of, column)) == list(map(fields_of, other))
            elif isinstance(column, np.ndarray):
                assert column.dtype == other.dtype
                np.testing.assert_array_equal(column, other)
            else:
                assert column == other
    known = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "score"}
    assert fast.annotations.extra is not None
    assert [fields_of(e) for e in fast.annotations.extra] == [
        {k: v for k, v in row.items() if k not in known} for row in rows
    ]
    assert fast.annotations.numbered.tolist() == [True, True, True, False, True]
    assert fast.annotations.ignore.tolist() == [False, False, True, False, False]
    np.testing.assert_array_equal(
        fast.annotations.score, np.array([np.nan] * 3 + [0.25, np.nan], np.float32)
    )


def test_field_names_that_no_struct_can_have_survive_too(tmp_path):
    data = with_annotation(**{'a "quoted" \\ name': [1, {"b": None}]})
    dataset = read_dataset(put(tmp_path, data), "coco")
    out = json.loads(write(dataset, tmp_path / "o.json")[0].read_bytes())
    data["annotations"][0]["iscrowd"] = 0
    assert out["annotations"] == data["annotations"]


def fields_of(extra):
    return json.loads(extra) if extra else {}


def test_real_coco_files_with_crowds(tmp_path, shared):
    pycoco = pytest.importorskip("pycocotools.coco")
    crowds = 0
    for split in ("train", "val"):
        dataset = read_dataset(shared / "data/tinycoco", "coco", split=split)
        assert dataset.image_path(0).is_file()
        crowds += int(dataset.boxes.ignore.sum())
        out = write(dataset, tmp_path / f"{split}.json")[0]
        before = json.loads(
            (shared / f"data/tinycoco/annotations/instances_{split}2017.json").read_bytes()
        )
        loaded = pycoco.COCO(str(out))
        for row in before["annotations"]:
            assert loaded.anns[row["id"]] == row
    assert crowds == 5


def test_many_unknown_fields_are_asked_for_once(tmp_path, monkeypatch):
    data = document()
    for kind in ("images", "annotations"):
        for i, row in enumerate(data[kind]):
            row.update({f"{kind} {k}": k for k in range(30 * i, 30 * (i + 1))})
    file = put(tmp_path, data)
    decoded = []

    def of_type(part, known, names):
        decoded.append(len(names))
        return real(part, known, names)

    real = coco_decode._of_type
    monkeypatch.setattr(coco_decode, "_of_type", of_type)
    dataset = read_dataset(file, "coco")
    assert len(decoded) == 4  # without and with them, of images and of annotations
    out = json.loads(write(dataset, tmp_path / "o.json")[0].read_bytes())
    for kind in ("images", "annotations"):
        theirs = {row["id"]: row for row in data[kind]}
        for row in out[kind]:
            assert {k: v for k, v in row.items() if k.startswith(kind)} == {
                k: v for k, v in theirs[row["id"]].items() if k.startswith(kind)
            }
