"""The on-disk FiftyOne dataset: its documents, its bytes, and that FiftyOne loads it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset, Images, Provenance, make_boxes
from relabel.datasets.formats.fiftyone.documents import field_name
from relabel.datasets.formats.fiftyone.write import write
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import ConfigError, DataError
from tests.builders.datasets import write_image
from tests.fiftyone_database import looked_at_by_fiftyone

SPACE = LabelSpace.from_names("target", ["car", "bus"])
COARSE = LabelSpace.from_names("source", ["vehicle"])


def make_dataset(root: Path) -> DetectionDataset:
    """Two images of 200x100 and 50x40; three boxes on the first, none on the second."""
    write_image(root / "a/one.png", 200, 100)
    write_image(root / "two.png", 50, 40)
    images = Images(
        np.array([7, 9]), ["a/one.png", "two.png"], np.array([200, 50]), np.array([100, 40])
    )
    boxes = make_boxes(
        [0, 0, 0],
        [[20, 10, 100, 50], [0, 0, 50, 25], [150, 50, 50, 50]],
        [0, 1, 1],
        id=[11, 12, 13],
        score=[0.75, np.nan, 0.1],
        ignore=[False, False, True],
        extra=[b'{"relabel_alternatives":["bus"]}', None, None],
        provenance=Provenance(
            "waymo",
            ["source", "pseudo:cityscapes", "source"],
            np.array([501, -1, 503]),
            ["vehicle", "", "vehicle"],
            np.array([0.8, np.nan, 1.0], np.float32),
        ),
    )
    return DetectionDataset("waymo", SPACE, images, boxes, root)


def make_source(root: Path) -> DetectionDataset:
    """The source's own annotations, its images in another order."""
    images = Images(
        np.array([1, 2]), ["two.png", "a/one.png"], np.array([50, 200]), np.array([40, 100])
    )
    boxes = make_boxes([0, 1], [[5, 4, 10, 8], [10, 10, 100, 50]], [0, 0], id=[500, 501])
    return DetectionDataset("waymo", COARSE, images, boxes, root)


def read_samples(out: Path) -> list[dict]:
    return json.loads((out / "samples.json").read_text())["samples"]


def test_documents_hold_relative_boxes_and_provenance(tmp_path: Path) -> None:
    files = write(make_dataset(tmp_path / "set"), tmp_path / "out", split="val")
    assert [f.name for f in files] == ["metadata.json", "samples.json"]
    one, two = read_samples(tmp_path / "out")
    assert one["filepath"] == str(tmp_path / "set/a/one.png")
    assert one["tags"] == ["val", "waymo"]
    assert one["image_id"] == 7
    assert one["metadata"] == {
        "_cls": "ImageMetadata",
        "mime_type": "image/png",
        "width": 200,
        "height": 100,
    }
    first, second, third = one["transferred"]["detections"]
    assert first["bounding_box"] == [0.1, 0.1, 0.5, 0.5]
    assert (first["label"], first["confidence"]) == ("car", 0.75)
    assert first["origin"] == "source"
    assert first["source_dataset"] == "waymo"
    assert first["source_category"] == "vehicle"
    assert first["source_id"] == 501
    assert first["source_iou"] == 0.8
    assert first["annotation_id"] == 11
    assert [d["alternatives"] for d in (first, second, third)] == [["bus"], [], []]
    assert (second["origin"], second["confidence"]) == ("pseudo:cityscapes", None)
    assert second["source_id"] is second["source_category"] is second["source_iou"] is None
    assert [d["ignore"] for d in (first, second, third)] == [False, False, True]
    assert third["iscrowd"] == 1
    assert two["transferred"] == {"_cls": "Detections", "detections": []}


def test_extra_fields_are_joined_by_file_name(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    write(make_dataset(tmp_path), tmp_path / "out", extra_fields={"source": source})
    one, two = read_samples(tmp_path / "out")
    assert [d["annotation_id"] for d in one["source"]["detections"]] == [501]
    assert [d["annotation_id"] for d in two["source"]["detections"]] == [500]
    assert two["source"]["detections"][0]["bounding_box"] == [0.1, 0.1, 0.2, 0.2]
    assert "origin" not in two["source"]["detections"][0]
    # An image the extra field does not know has no boxes there.
    write(make_dataset(tmp_path), tmp_path / "less", extra_fields={"source": source.subset([0])})
    assert read_samples(tmp_path / "less")[0]["source"]["detections"] == []


def test_what_changed_stays_with_its_box_where_another_is_dropped(tmp_path: Path) -> None:
    """The middle one of three lies outside its image, and is not written."""
    data = make_dataset(tmp_path / "set")
    xywh = data.boxes.xywh.copy()
    xywh[1] = [300, 0, 20, 20]
    data = data.with_boxes(replace(data.boxes, xywh=xywh))
    told = {
        "transferred": {"change": ["kept", "added", None], "disagreement": [0.25, 0.5, None]},
        "source": {"change": ["dropped", "kept"]},
    }
    source = make_source(tmp_path / "set")
    write(data, tmp_path / "out", extra_fields={"source": source}, attributes=told)
    one, two = read_samples(tmp_path / "out")
    assert [(d["annotation_id"], d["change"]) for d in one["transferred"]["detections"]] == [
        (11, "kept"),
        (13, None),
    ]
    assert [d["disagreement"] for d in one["transferred"]["detections"]] == [0.25, None]
    assert [d["change"] for d in one["source"]["detections"]] == ["kept"]
    assert [d["change"] for d in two["source"]["detections"]] == ["dropped"]


def test_further_attributes_stay_with_their_boxes(tmp_path: Path) -> None:
    """The second box, of no area, is left out; an attribute wins over one that is there anyway."""
    data = make_dataset(tmp_path / "set")
    xywh = data.boxes.xywh.copy()
    xywh[1] = 5, 5, 0, 0
    data = data.with_boxes(replace(data.boxes, xywh=xywh))
    more = {"reason": ["a", "b", None], "rank": [3, 2, 1], "annotation_id": [None, 5, 6]}
    write(data, tmp_path / "out", attributes={"transferred": more})
    one, _ = read_samples(tmp_path / "out")
    assert [
        (d["reason"], d["rank"], d["annotation_id"]) for d in one["transferred"]["detections"]
    ] == [("a", 3, None), (None, 1, 6)]
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    declared = {f["db_field"]: f for f in metadata["sample_fields"]}["transferred"]["fields"][0]
    types = [(f["db_field"], f["ftype"].rpartition(".")[2]) for f in declared["fields"]]
    assert types.count(("annotation_id", "IntField")) == 1
    assert ("rank", "IntField") in types and ("reason", "StringField") in types


def test_schema_declares_every_attribute_of_every_box(tmp_path: Path) -> None:
    write(make_dataset(tmp_path), tmp_path / "out", extra_fields={"source": make_source(tmp_path)})
    metadata = json.loads((tmp_path / "out/metadata.json").read_text())
    declared = {f["db_field"]: f for f in metadata["sample_fields"]}
    for sample in read_samples(tmp_path / "out"):
        assert set(sample) <= set(declared)
        for name in ("transferred", "source"):
            schema = declared[name]["fields"][0]
            names = {f["db_field"] for f in schema["fields"]}
            for detection in sample[name]["detections"]:
                assert set(detection) - {"_cls"} <= names
    assert metadata["classes"] == {"transferred": ["car", "bus"], "source": ["vehicle"]}


def test_same_bytes_every_time_and_ids_are_unique(tmp_path: Path) -> None:
    data = make_dataset(tmp_path)
    extra = {"source": make_source(tmp_path)}
    write(data, tmp_path / "a-out", extra_fields=extra)
    write(data, tmp_path / "b-out", extra_fields=extra)
    for name in ("metadata.json", "samples.json"):
        assert (tmp_path / "a-out" / name).read_bytes() == (tmp_path / "b-out" / name).read_bytes()
    samples = read_samples(tmp_path / "a-out")
    ids = [s["_id"]["$oid"] for s in samples]
    ids += [
        d["_id"]["$oid"]
        for s in samples
        for field in ("transferred", "source")
        for d in s[field]["detections"]
    ]
    assert len(ids) == len(set(ids)) == 2 + 3 + 2
    assert all(len(i) == 24 and int(i, 16) >= 0 for i in ids)


def test_images_in_archives_are_extracted(tmp_path: Path) -> None:
    data = make_dataset(tmp_path)
    with zipfile.ZipFile(tmp_path / "img.zip", "w") as archive:
        archive.write(tmp_path / "a/one.png", "x/one.png")
        archive.write(tmp_path / "two.png", "x/two")
    where = f"zip:{tmp_path / 'img.zip'}!x/"
    packed = replace(
        data,
        images=replace(
            data.images,
            file_name=["x1:one.png", "b/two"],
            location=[where + "one.png", where + "two"],
        ),
    )
    out = tmp_path / "out"
    write(packed, out)
    one, two = read_samples(out)
    # A name that Windows does not take is replaced; a missing suffix comes from the content.
    assert one["filepath"] == f"data/{one['_id']['$oid']}.png"
    assert two["filepath"] == "data/b/two.png"
    assert (out / one["filepath"]).read_bytes() == (tmp_path / "a/one.png").read_bytes()
    # One that was cut off is written again.
    (out / two["filepath"]).write_bytes(b"half")
    write(packed, out)
    assert (out / two["filepath"]).read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("how", ["link", "copy"])
def test_images_linked_or_copied(tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    write(make_dataset(tmp_path / "set"), out, copy_images=how)  # type: ignore[arg-type]
    stored = out / "data/a/one.png"
    assert read_samples(out)[0]["filepath"] == "data/a/one.png"
    assert stored.is_symlink() == (how == "link")
    assert stored.read_bytes() == (tmp_path / "set/a/one.png").read_bytes()


def test_errors_name_the_cause(tmp_path: Path) -> None:
    data = make_dataset(tmp_path)
    with pytest.raises(ConfigError, match="'transferred' is taken"):
        write(data, tmp_path / "out", extra_fields={"transferred": data})
    flat = replace(data, images=replace(data.images, width=np.array([200, 0])))
    with pytest.raises(DataError, match=r"two\.png, image 9: image has no width or height"):
        write(flat, tmp_path / "out")
    (tmp_path / "two.png").unlink()
    with pytest.raises(DataError, match="image file does not exist"):
        write(data, tmp_path / "out", copy_images="copy")
    assert not (tmp_path / "out/metadata.json").exists()


def test_field_names() -> None:
    assert field_name("pseudo_nu-images v1") == "pseudo_nu_images_v1"
    assert field_name("_2x") == "field_2x"


LOOK = """
box = s.transferred.detections[0]
print(json.dumps({
    "n": len(d), "path": s.filepath, "width": s.metadata.width, "box": box.bounding_box,
    "label": box.label, "origin": box.origin, "iou": box.source_iou, "tags": s.tags,
    "doubt": [d.filepath for d in d.match_labels(
        filter=fo.ViewField("alternatives").contains("bus"), fields="transferred")],
    "labels": d.count_values("transferred.detections.label"),
    "high": d.filter_labels("transferred", fo.ViewField("confidence") > 0.5).count(
        "transferred.detections"),
    "source": d.count("source.detections"),
}))
"""


@pytest.mark.fiftyone
@pytest.mark.slow
def test_fiftyone_loads_it(tmp_path: Path) -> None:
    write(make_dataset(tmp_path), tmp_path / "out", extra_fields={"source": make_source(tmp_path)})
    found = looked_at_by_fiftyone(tmp_path / "out", LOOK, database=tmp_path / "db")
    assert found == {
        "n": 2,
        "path": str(tmp_path / "a/one.png"),
        "width": 200,
        "box": [0.1, 0.1, 0.5, 0.5],
        "label": "car",
        "origin": "source",
        "iou": 0.8,
        "tags": ["train", "waymo"],
        "doubt": [str(tmp_path / "a/one.png")],
        "labels": {"car": 1, "bus": 2},
        "high": 1,
        "source": 2,
    }
