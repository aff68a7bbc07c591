"""Annotations that left no label: through a stage's folder, and in every file of the result."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from relabel.align.export import SourceResult, write_align_result
from relabel.align.settings import AlignSettings, PipelineSettings
from relabel.align.store import read_removed, write_removed
from relabel.datasets.dataset import DetectionDataset, Provenance, make_boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.removed import MERGED, NO_LABEL, Removed, removed_from, without_label
from relabel.errors import DataError
from relabel.review.apply import apply_all
from tests.builders.datasets import dataset_of, images_of, write_image
from tests.fiftyone_database import looked_at_by_fiftyone

NAMES = ["a.png", "b.png", "c.png"]
TOO_SMALL = "too small"


def world(root: Path) -> tuple[DetectionDataset, DetectionDataset, DetectionDataset]:
    """The target; a source of four annotations and a region; the source with two labels."""
    for name in NAMES:
        write_image(root / name, 100, 80, (90, 120, 150))
    images = images_of(NAMES, (100, 80), ids=[7, 8, 9])
    target = dataset_of("fine", ["car", "bus"], images, [(0, [0, 0, 9, 9], 0)], root=root)
    annotations = make_boxes(
        [0, 0, 1, 1, 1],
        [[0, 0, 40, 40], [0, 0, 40, 44], [50, 10, 30, 30], [10, 50, 8, 8], [0, 0, 5, 5]],
        [0, 0, 0, 1, 0],
        id=[11, 12, 13, 14, 15],
        ignore=[False] * 4 + [True],
        extra=[None, None, b'{"note":"mine"}', None, None],
    )
    before = dataset_of("coarse", ["vehicle", "cone"], images, annotations, root=root)
    labels = make_boxes(
        [0, 2],
        [[0, 0, 40, 42], [5, 5, 30, 30]],
        [0, 1],
        score=[0.9, 0.6],
        extra=[b'{"relabel_alternatives":["bus"]}', None],
        provenance=Provenance(
            "coarse",
            ["source", "pseudo:fine"],
            np.array([11, -1]),
            ["vehicle", ""],
            np.array([0.95, np.nan], np.float32),
        ),
    )
    return target, before, before.with_boxes(labels, target.space)


def removed() -> Removed:
    return Removed(
        np.array([2, 3]),
        ["outside the target's convention", TOO_SMALL],
        np.array([0.25, np.nan], np.float32),
        np.array([1, -1]),
        np.array([0.125, np.nan], np.float32),
    )


def export(root: Path, given: Removed | None = None) -> Path:
    target, before, after = world(root / "photos")
    datasets = {"fine": target, "coarse": before}
    job = SimpleNamespace(
        settings=PipelineSettings(align=AlignSettings(formats=("coco", "fiftyone"), pictures=2)),
        target="fine",
        sources=["coarse"],
        datasets=datasets,
        fingerprints=dict.fromkeys(datasets, "0"),
        stages={},
        backbones={},
        prompted_detectors=(),
        review=[],
        labels={},
        seconds=dict,
    )
    out = root / "result"
    gone = without_label(before, after) if given is None else given
    result = SourceResult(before, apply_all(before, after, gone, []), {})
    write_align_result(cast(Any, job), [result], out, quiet=True)
    return out


def test_a_table_comes_back_from_a_stage(tmp_path: Path) -> None:
    _, before, _ = world(tmp_path)
    assert write_removed(removed(), before, tmp_path) == {"removed": "removed.parquet"}
    found = read_removed(tmp_path)
    assert found.row.tolist() == [2, 3] and list(found.reason) == list(removed().reason)
    np.testing.assert_array_equal(found.probability, removed().probability)
    np.testing.assert_array_equal(found.category, removed().category)
    np.testing.assert_array_equal(found.score, removed().score)
    empty = removed().take(np.zeros(2, bool))
    write_removed(empty, before, tmp_path)
    assert len(read_removed(tmp_path)) == 0
    with pytest.raises(DataError):
        read_removed(tmp_path / "none")


def test_what_left_no_label_is_a_coco_file_with_reasons(tmp_path: Path) -> None:
    out = export(tmp_path, removed())
    content = json.loads((out / "coarse/removed.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["vehicle", "cone"]
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(8, "b.png")]
    first, second = content["annotations"]
    assert (first["id"], first["image_id"], first["bbox"]) == (13, 8, [50, 10, 30, 30])
    assert first["note"] == "mine"
    assert first["relabel_removed"] == {
        "reason": "outside the target's convention",
        "probability": 0.25,
        "category": "bus",
        "score": 0.125,
    }
    unknown = dict.fromkeys(("probability", "category", "score"))
    assert second["relabel_removed"] == {"reason": TOO_SMALL, **unknown}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["removed"] == {"coarse": {"outside the target's convention": 1, TOO_SMALL: 1}}
    assert "coarse/removed.json" in manifest["files"]
    # It is read as any COCO file, and gives the table back.
    read = read_dataset(out / "coarse/removed.json", "coco")
    _, before, after = world(tmp_path / "photos")
    found = removed_from(read, before, after.space)
    assert found.row.tolist() == [2, 3] and list(found.reason) == list(removed().reason)
    assert found.category.tolist() == [1, -1]
    np.testing.assert_array_equal(found.probability, removed().probability)
    np.testing.assert_array_equal(found.score, removed().score)
    assert len(removed_from(after, before, after.space)) == 0
    again = (out / "coarse/removed.json").read_bytes()
    assert export(tmp_path, removed()) == out
    assert (out / "coarse/removed.json").read_bytes() == again


def test_reasons_are_derived_where_none_are_given(tmp_path: Path) -> None:
    content = json.loads((export(tmp_path) / "coarse/removed.json").read_text())
    assert {a["id"]: a["relabel_removed"]["reason"] for a in content["annotations"]} == {
        12: MERGED,
        13: NO_LABEL,
        14: NO_LABEL,
    }


def test_fiftyone_has_them_as_a_layer(tmp_path: Path) -> None:
    folder = export(tmp_path, removed()) / "coarse/fiftyone"
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    layers = [sample["removed"]["detections"] for sample in samples]
    assert [len(layer) for layer in layers] == [0, 2, 0]
    first, second = layers[1]
    assert (first["label"], first["annotation_id"]) == ("vehicle", 13)
    names = ("removed_because", "probability", "best_class", "best_score")
    assert [first[n] for n in names] == ["outside the target's convention", 0.25, "bus", 0.125]
    assert [second[n] for n in names] == [TOO_SMALL, None, None, None]
    fields = json.loads((folder / "metadata.json").read_text())["sample_fields"]
    (layer,) = (f for f in fields if f["name"] == "removed")
    kinds = {f["name"]: f["ftype"].rpartition(".")[2] for f in layer["fields"][0]["fields"]}
    assert [kinds[n] for n in names] == ["StringField", "FloatField", "StringField", "FloatField"]
    (layer,) = (f for f in fields if f["name"] == "source")
    assert "removed_because" not in {f["name"] for f in layer["fields"][0]["fields"]}


LOOK = """
small = fo.ViewField("removed_because") == "too small"
print(json.dumps({
    "labels": d.count_values("removed.detections.label"),
    "reasons": d.distinct("removed.detections.removed_because"),
    "probability": d.values("removed.detections.probability", unwind=True),
    "best": d.distinct("removed.detections.best_class"),
    "small": d.filter_labels("removed", small).values("removed.detections.annotation_id"),
}))
"""


@pytest.mark.fiftyone
@pytest.mark.slow
def test_fiftyone_loads_the_layer(tmp_path: Path) -> None:
    folder = export(tmp_path, removed()) / "coarse/fiftyone"
    assert looked_at_by_fiftyone(folder, LOOK, database=tmp_path / "db") == {
        "labels": {"vehicle": 1, "cone": 1},
        "reasons": ["outside the target's convention", TOO_SMALL],
        "probability": [0.25, None],
        "best": ["bus"],
        "small": [[14]],
    }


def test_every_label_carries_score_origin_and_alternatives(tmp_path: Path) -> None:
    out = export(tmp_path)
    merged = json.loads((out / "merged.json").read_text())["annotations"]
    own = json.loads((out / "coarse/annotations.json").read_text())["annotations"]
    assert "relabel" not in merged[0]  # the target's own
    for found in (own, merged[1:]):
        assert [a["score"] for a in found] == pytest.approx([0.9, 0.6])
        assert [a["relabel"]["origin"] for a in found] == ["source", "pseudo:fine"]
        assert [a["relabel_alternatives"] for a in found] == [["bus"], []]
    samples = json.loads((out / "coarse/fiftyone/samples.json").read_text())["samples"]
    labels = [d for sample in samples for d in sample["transferred"]["detections"]]
    assert [d["confidence"] for d in labels] == pytest.approx([0.9, 0.6])
    assert [d["origin"] for d in labels] == ["source", "pseudo:fine"]
    assert [d["alternatives"] for d in labels] == [["bus"], []]
