"""FiftyOne folders read: as FiftyOne 1.22 exports them, and as relabel writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.datasets.dataset import Provenance, make_boxes
from relabel.datasets.formats.coco.write import write as write_coco
from relabel.datasets.formats.fiftyone.write import write
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError, Problems
from tests.builders.datasets import dataset_of, edit_json, images_of, write_image, write_json
from tests.fiftyone_database import looked_at_by_fiftyone

NAN = {"$numberDouble": "NaN"}


def detection(label: str, box: list[float], **more: Any) -> dict[str, Any]:
    return {
        "_id": {"$oid": "6b0ada47c38b89aee9b9fb81"},
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": label,
        "bounding_box": box,
        **more,
    }


def detections(*boxes: dict[str, Any]) -> dict[str, Any]:
    return {"_cls": "Detections", "detections": list(boxes)}


def export(root: Path, **change: Any) -> Path:
    """What ``dataset.export`` leaves of two images of 64x48; the second has no metadata."""
    write_image(root / "data/a.png", 64, 48)
    write_image(root / "data/b.png", 64, 48)
    first = {
        "_id": {"$oid": "6b0ada47c38b89aee9b9fb85"},
        "filepath": "data/a.png",
        "tags": ["validation", "hard"],
        "_media_type": "image",
        "_rand": 0.5,
        "ground_truth": detections(
            detection("car", [0.25, 0.5, 0.5, 0.25], occluded=True, iscrowd=1, when=None),
            detection(
                "bus",
                [0.1, 0.2, 0.3, 0.4],
                confidence=0.5,
                mask={"$binary": {"base64": "eJyb7Q==", "subType": "00"}},
                tags=["x"],
                attributes={"u": {"_cls": "CategoricalAttribute", "value": "v"}},
            ),
        ),
        "predictions": detections(detection("tram", [0, 0, 1, 1], confidence=NAN)),
        "weather": {"_cls": "Classification", "label": "sunny"},
        "metadata": {"_cls": "ImageMetadata", "width": 64, "height": 48, "size_bytes": 88},
        "created_at": {"$date": "2026-11-28T13:42:31.563Z"},
    }
    second = {"filepath": "data/b.png", "tags": ["train"], "_media_type": "image"}
    write_json(root / "samples.json", {"samples": [first, second]})
    fields = [
        {"name": name, "embedded_doc_type": f"fiftyone.core.labels.{kind}"}
        for name, kind in (
            ("ground_truth", "Detections"),
            ("predictions", "Detections"),
            ("weather", "Classification"),
        )
    ]
    metadata = {"name": "x", "sample_fields": fields, "classes": {}, "info": {}, **change}
    write_json(root / "metadata.json", metadata)
    return root


def test_an_export_of_fiftyone(tmp_path):
    problems = Problems()
    dataset = read_dataset(export(tmp_path), "fiftyone", problems=problems)
    assert list(dataset.images.file_name) == ["a.png", "b.png"]
    assert dataset.images.width.tolist() == [64, 64]
    assert dataset.image_path(0) == tmp_path / "data/a.png"
    assert dataset.boxes.xywh.tolist() == [[16, 24, 32, 12], [6.4, 9.6, 19.2, 19.2]]
    assert dataset.space.names == ["bus", "car"]
    assert dataset.boxes.category.tolist() == [1, 0]
    assert dataset.boxes.ignore.tolist() == [True, False]
    assert np.isnan(dataset.boxes.score[0])
    assert dataset.boxes.score[1] == 0.5
    assert [json.loads(e or b"{}") for e in dataset.boxes.extra or ()] == [
        {"occluded": True},
        {"tags": ["x"], "attributes": {"u": "v"}},
    ]
    assert problems.summary() == ["1 box with a mask, of which the box alone is read"]
    assert problems.found == []


def test_samples_may_be_files_of_their_own(tmp_path):
    export(tmp_path)
    samples = json.loads((tmp_path / "samples.json").read_text())["samples"]
    (tmp_path / "samples.json").unlink()
    for i, sample in enumerate(samples):
        write_json(tmp_path / f"samples/{i:06d}-x.json", sample)
    (tmp_path / "samples/._000000-x.json").write_bytes(b"\0\5")
    assert len(read_dataset(tmp_path, "fiftyone").boxes) == 2


def test_a_side_of_next_to_nothing_is_a_side(tmp_path):
    boxes = make_boxes([0, 0], [[14, 6, 1e-300, 6], [1, 2, 3, 1e-12]], [0, 0])
    write_image(tmp_path / "0.jpg", 64, 48, (90, 90, 90))
    write(dataset_of("s", ["car"], ["0.jpg"], boxes, root=tmp_path, size=(64, 48)), tmp_path / "o")
    problems = Problems()
    again = read_dataset(tmp_path / "o", "fiftyone", problems=problems)
    assert again.boxes.xywh == pytest.approx(boxes.xywh, rel=1e-12) and not problems.counts
    assert (again.boxes.xywh[:, 2:] > 0).all()


def test_tags_are_splits(tmp_path):
    export(tmp_path)
    assert list(read_dataset(tmp_path, "fiftyone", split="val").images.file_name) == ["a.png"]
    assert len(read_dataset(tmp_path, "fiftyone", split="train").boxes) == 0
    with pytest.raises(DataError, match=r"no split 'test'\. Known: hard, train, validation"):
        read_dataset(tmp_path, "fiftyone", split="test")


def test_the_field_asked_for_or_the_only_one(tmp_path):
    export(tmp_path)
    found = read_dataset(tmp_path, "fiftyone", annotations="predictions")
    assert found.space.names == ["tram"]
    with pytest.raises(DataError, match=r"'nothing'\. Known: ground_truth, predictions\."):
        read_dataset(tmp_path, "fiftyone", annotations="nothing")

    def rename(data: dict[str, Any]) -> None:
        data["samples"][0]["people"] = data["samples"][0].pop("ground_truth")

    edit_json(tmp_path / "samples.json", rename)
    write_json(tmp_path / "metadata.json", {})
    with pytest.raises(DataError, match=r"in the fields predictions, people\. Name one"):
        read_dataset(tmp_path, "fiftyone")
    edit_json(tmp_path / "samples.json", lambda data: data["samples"][0].pop("predictions"))
    assert read_dataset(tmp_path, "fiftyone").space.names == ["bus", "car"]
    edit_json(tmp_path / "samples.json", lambda data: data["samples"][0].pop("people"))
    with pytest.raises(DataError, match="has no field with detections"):
        read_dataset(tmp_path, "fiftyone")


def test_classes_come_from_the_metadata_where_it_has_them(tmp_path):
    export(tmp_path, classes={"ground_truth": ["car", "person"]})
    space = read_dataset(tmp_path, "fiftyone").space
    assert [(c.id, c.name) for c in space.categories] == [(1, "car"), (2, "person"), (3, "bus")]


def test_images_elsewhere_are_read_there_and_said_to_be_elsewhere(tmp_path):
    export(tmp_path / "f")
    write_image(tmp_path / "photos/x/c.png", 64, 48)

    def move(data: dict[str, Any]) -> None:
        data["samples"][0]["filepath"] = str(tmp_path / "photos/x/c.png")
        data["samples"][1]["filepath"] = str(tmp_path / "photos/d.png")
        data["samples"][1]["metadata"] = {"width": 4, "height": 4}

    edit_json(tmp_path / "f/samples.json", move)
    problems = Problems()
    dataset = read_dataset(tmp_path / "f", "fiftyone", problems=problems)
    assert list(dataset.images.file_name) == ["x/c.png", "d.png"]
    assert dataset.root == tmp_path / "photos"
    assert dataset.outside
    assert not read_dataset(export(tmp_path / "g"), "fiftyone").outside
    assert len(problems.found) == 1
    assert "d.png" in problems.found[0].message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.update(filepath=5), r"samples\[0\]: .*filepath"),
        (lambda s: s.update(_media_type="video"), "holds samples of the kind 'video'"),
        (lambda s: s["ground_truth"].update(detections=3), "holds no list of detections"),
        (lambda s: s["ground_truth"]["detections"].insert(0, 4), "0: is not an object"),
        (lambda s: s["ground_truth"]["detections"][0].pop("label"), "ground_truth 0: .*label"),
        (lambda s: s["ground_truth"]["detections"][1].update(bounding_box=[1, 2]), "length 4"),
        (lambda s: s["ground_truth"]["detections"][1].update(bounding_box=[0, 0, -1, 1]),
         "a.png, ground_truth 1: .*negative size"),
        (lambda s: s["ground_truth"]["detections"][1].update(other_fields="[1"), "not valid JSON"),
        (lambda s: s["ground_truth"]["detections"][1].update(other_fields="[1]"),
         "other_fields is not a JSON object"),
        (lambda s: s["ground_truth"]["detections"][1].update(annotation_id=2**63), "annotation_id"),
        (lambda s: s.update(file_name="../a.png"), "leads out"),
        (lambda s: s.update(file_name="b.png"), r"samples\[1\] .*appears twice"),
        (lambda s: s.update(filepath="data/none.png", metadata=None), "none.png"),
    ],
)  # fmt: skip
def test_damaged_records_are_named(tmp_path, change, expected):
    export(tmp_path)
    edit_json(tmp_path / "samples.json", lambda data: change(data["samples"][0]))
    with pytest.raises(DataError, match=expected) as caught:
        read_dataset(tmp_path, "fiftyone")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("metadata.json", "[]", "holds a list"),
        ("metadata.json", '{"info": {"relabel": "{"}}', "cut off"),
        ("samples.json", "{}", "has no list `samples`"),
        ("samples.json", '{"samples": [], "samples": []}', "appears twice"),
        ("samples.json", '{"samples": ["a"]}', r"samples\[0\]"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, text, expected):
    export(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=expected):
        read_dataset(tmp_path, "fiftyone")
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match="Point at the folder that FiftyOne or relabel wrote"):
        read_dataset(tmp_path, "fiftyone")


def test_bad_records_are_skipped_where_that_is_wanted(tmp_path):
    export(tmp_path)

    def damage(data: dict[str, Any]) -> None:
        data["samples"][0]["ground_truth"]["detections"][0]["bounding_box"] = [0, 0, None, 1]
        data["samples"].append({"tags": []})

    edit_json(tmp_path / "samples.json", damage)
    problems = Problems(skip_bad=True)
    dataset = read_dataset(tmp_path, "fiftyone", problems=problems)
    assert (len(dataset), len(dataset.boxes), len(problems.errors)) == (2, 1, 2)


def test_other_fields_cannot_replace_those_of_a_coco_record(tmp_path):
    """A field `bbox` beside the record's own would be a second key of that name in COCO."""
    export(tmp_path)

    def damage(data: dict[str, Any]) -> None:
        found = data["samples"][0]["ground_truth"]["detections"]
        found[0]["other_fields"] = '{"bbox": [9, 9, 9, 9], "segmentation": [[1, 2]]}'
        found[1]["score"] = 7

    edit_json(tmp_path / "samples.json", damage)
    write_coco(read_dataset(tmp_path, "fiftyone"), tmp_path / "o.json")
    back = read_dataset(tmp_path / "o.json", "coco")
    assert back.boxes.xywh[0].tolist() == [16, 24, 32, 12]
    assert json.loads(back.boxes.extra[0])["segmentation"] == [[1, 2]]  # type: ignore[index]


@pytest.mark.parametrize(("classes", "car"), [(None, "car"), (["bus", "car"], 1)])
def test_one_file_of_labels(tmp_path, classes, car):
    """FiftyOneImageDetectionDataset: boxes by the image's name without its suffix."""
    for name in ("a.png", "cam/b.png"):
        write_image(tmp_path / "data" / name, 64, 48)
    boxes = [
        {"label": car, "bounding_box": [0.25, 0.5, 0.5, 0.25], "attributes": {"iscrowd": 1}},
        {"label": "bus", "bounding_box": [0, 0, 1, 1], "attributes": {"u": "v"}},
    ]
    write_json(
        tmp_path / "labels.json", {"classes": classes, "labels": {"a": boxes, "cam/b": None}}
    )
    problems = Problems()
    dataset = read_dataset(tmp_path, "fiftyone", problems=problems)
    assert dataset.image_path(1) == tmp_path / "data/cam/b.png"
    assert dataset.boxes.xywh.tolist() == [[16, 24, 32, 12], [0, 0, 64, 48]]
    assert [dataset.space.names[c] for c in dataset.boxes.category] == ["car", "bus"]
    assert dataset.boxes.ignore.tolist() == [True, False]
    assert json.loads((dataset.boxes.extra or [])[1] or b"") == {"u": "v"}
    assert problems.found == []

    def move(data: dict[str, Any]) -> None:
        data["labels"]["c"] = data["labels"].pop("cam/b")

    edit_json(tmp_path / "labels.json", move)
    read_dataset(tmp_path, "fiftyone", problems=problems)
    assert [("cam/b.png" in p.message, "label c" in p.message) for p in problems.found] == [
        (True, False),
        (False, True),
    ]
    write_json(tmp_path / "labels.json", {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="is COCO: read it with --format coco"):
        read_dataset(tmp_path, "fiftyone")


def relabelled(root: Path):
    """One image with two boxes of a source's, the first doubtful."""
    write_image(root / "a.png", 64, 48)
    origin = Provenance(
        "waymo",
        ["source", "pseudo:x"],
        np.array([501, -1]),
        ["vehicle", ""],
        np.array([0.8, np.nan], np.float32),
    )
    boxes = make_boxes(
        [0, 0],
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [0, 1],
        id=[7, 3],
        score=[0.75, 0.1],
        extra=[b'{"relabel_alternatives":["bus"]}', None],
        provenance=origin,
    )
    space = LabelSpace.from_names("t", ["car", "bus"], first_id=4)
    return dataset_of("waymo", space, images_of(["a.png"], (64, 48), [9]), boxes, root=root)


def test_a_relabelled_dataset_comes_back_as_its_coco_file_does(tmp_path):
    dataset = relabelled(tmp_path)
    write(dataset, tmp_path / "f", extra_fields={"source": dataset})
    write_coco(dataset, tmp_path / "a.json")
    back = read_dataset(tmp_path / "f", "fiftyone")
    write_coco(replace(back, name="waymo"), tmp_path / "b.json")
    before, after = (json.loads((tmp_path / f"{n}.json").read_bytes()) for n in "ab")
    assert after == before
    assert read_dataset(tmp_path / "f", "fiftyone", annotations="source").space.ids.tolist() == [
        4,
        5,
    ]


LOOK = """
d.export(export_dir=sys.argv[1] + "-again", dataset_type=fo.types.FiftyOneDataset)
print(json.dumps(len(d)))
"""


@pytest.mark.fiftyone
@pytest.mark.slow
def test_fiftyone_hands_on_what_relabel_keeps(tmp_path):
    """Loaded into FiftyOne's database and exported from it, it is still the same COCO file."""
    dataset = relabelled(tmp_path)
    write(dataset, tmp_path / "f")
    assert looked_at_by_fiftyone(tmp_path / "f", LOOK, database=tmp_path / "db") == 1
    found = [
        replace(read_dataset(tmp_path / name, "fiftyone"), root=tmp_path)
        for name in ("f", "f-again")
    ]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for one, file in zip(found, files, strict=True):
        write_coco(one, file)
    assert json.loads(files[0].read_bytes()) == json.loads(files[1].read_bytes())
