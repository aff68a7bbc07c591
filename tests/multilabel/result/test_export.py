"""The result as text, Parquet, JSON, FiftyOne dataset and report, from a result known by heart."""

from __future__ import annotations

import base64
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from relabel.datasets.multilabels import read_tsv
from relabel.errors import DataError
from relabel.multilabel.labels.confusion import ConfusedPair
from relabel.multilabel.result.export import (
    label_origins,
    paired,
    write_confused,
    write_labels_parquet,
    write_labels_tsv,
)
from relabel.multilabel.result.fiftyone_export import write_fiftyone
from relabel.multilabel.result.report import write_result_report
from relabel.multilabel.result.summary import Summary
from relabel.multilabel.store import read_labels, read_regions
from relabel.viewer import find_sources
from relabel.workspace.columns import write_shard
from tests.builders.multilabel import Result, make_result
from tests.fiftyone_database import looked_at_by_fiftyone


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return make_result(tmp_path_factory.mktemp("result"))


def test_text(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    write_labels_tsv(path, result.labels)
    assert path.read_text() == (
        "ant/0.png\t0\t0,1,2\t1.0000,0.5000,0.2500\n"
        "ant/1.png\t0\t0\t1.0000\n"
        "ant/2.png\t0\t\t\n"
        "bee/3.png\t1\t1,2\t1.0000,1.0000\n"
        "bee/4.png\t1\t1,3\t1.0000,0.1250\n"
    )
    assert len(read_tsv(path, 4)) == 5


def test_parquet(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    write_labels_parquet(path, result.images, paired(result.regions, result.labels))
    rows = pq.read_table(path).to_pylist()
    first, empty, broken, third, last = rows
    assert first["file_name"] == "ant/0.png"
    assert (first["width"], first["height"], first["gt"]) == (8, 6, 0)
    assert (first["ids"], first["probs"]) == ([0, 1, 2], [1.0, 0.5, 0.25])
    assert first["origin"] == ["label", "region:1", "region:1"]
    left, top = first["regions"]
    assert (left["area"], left["round"], left["id"], left["prob"]) == (24, 0, 0, 0.75)
    rle: Any = {"size": [6, 8], "counts": top["rle"].encode()}
    assert coco.toBbox(rle).tolist() == [4, 0, 4, 3]
    assert coco.area(rle) == top["area"] == 12

    assert empty["regions"] == [] and empty["origin"] == ["label"]
    assert broken["readable"] is False and broken["reason"] == "image cannot be decoded"
    assert (broken["ids"], broken["regions"]) == ([], [])
    # The region reaches the own label's probability only in the last image.
    assert third["origin"] == ["label", "region:0"]
    assert last["origin"] == ["region:0", "region"]

    file = pq.ParquetFile(path)
    assert file.num_row_groups == 3
    about = json.loads(file.schema_arrow.metadata[b"relabel"])
    assert about["class_names"] == ["ant", "bee", "cow", "dog"]
    assert (about["regions"], about["labels"]) == ({"tau": 0.5}, {"region_classifier": "tiny"})

    again = tmp_path / "again.parquet"
    write_labels_parquet(again, result.images, paired(result.regions, result.labels))
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(DataError, match="no shards to write"):
        write_labels_parquet(tmp_path / "none.parquet", result.images, [])


def test_images_without_a_label_have_null(result: Result, tmp_path: Path) -> None:
    one, other = read_regions(result.regions[0]), read_labels(result.labels[0])
    other = replace(other, gt=np.full(2, -1, np.int32))
    write_labels_parquet(tmp_path / "a.parquet", result.images, [(one, other)])
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["gt"] for row in rows] == [None, None]
    # Class 0 now stems from the region that has it best; image 1 has no region to have it from.
    assert rows[0]["origin"] == ["region:0", "region:1", "region:1"]
    assert rows[1]["origin"] == ["region"]


def test_origins_by_hand(result: Result) -> None:
    assert label_origins(read_labels(result.labels[0])).tolist() == [-1, 1, 1, -1]
    assert label_origins(read_labels(result.labels[1])).tolist() == [-1, 0]


def test_shards_that_do_not_belong_together(result: Result, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 shards of regions, but 2 of labels"):
        list(paired(result.regions, result.labels[:2]))
    with pytest.raises(DataError, match="holds other images or regions"):
        list(paired(result.regions[1:], result.labels[:2]))
    shard = read_labels(result.labels[0])
    write_shard(tmp_path / "x.parquet", replace(shard, file_name=["ant/0.png", "ant/9.png"]))
    with pytest.raises(DataError, match="holds other images or regions"):
        list(paired(result.regions[:1], [tmp_path / "x.parquet"]))


def test_confused(result: Result, tmp_path: Path) -> None:
    write_confused(tmp_path / "c.json", [ConfusedPair(1, 3, 0.5, 0.25, 8, 4)], result.images)
    assert json.loads((tmp_path / "c.json").read_text()) == {
        "pairs": [
            {
                "classes": ["bee", "dog"],
                "keys": ["bee", "dog"],
                "a": 1,
                "b": 3,
                "rate_ab": 0.5,
                "rate_ba": 0.25,
                "count_a": 8,
                "count_b": 4,
            }
        ]
    }


def test_summary(result: Result) -> None:
    summary = Summary(4, pictures=6)
    for one, other in paired(result.regions, result.labels):
        summary.add(one, other)
    assert (summary.images, summary.regions, summary.second) == (4, 5, 2)
    assert summary.label_counts.tolist() == [0, 2, 2, 0, 0, 0, 0, 0, 0]
    assert summary.region_counts.tolist() == [1, 1, 2, 0, 0, 0, 0, 0, 0]
    assert summary.labels == 6
    assert summary.probabilities[[5, 10, 15, 19]].tolist() == [1, 1, 1, 2]
    assert summary.areas[[5, 10]].tolist() == [1, 4]
    assert summary.skipped == [("ant/2.png", "image cannot be decoded")]
    assert summary.added() == [(0, 1, 1, 0.5), (1, 2, 1, 0.5)]
    assert summary.added_classes() == [(1, 1), (2, 1)]
    assert summary.numbers()["images with a second label, p ≥ 0.5"] == "50.0%"
    picks = [(p.group, p.shard, p.image) for p in summary.picks()]
    assert len({(shard, image) for _, shard, image in picks}) == len(picks) == 4
    assert ("Without a region", 0, 1) in picks
    assert {p for p in picks if p[0] == "Most labels"} == {
        ("Most labels", 0, 0),
        ("Most labels", 1, 1),
    }
    assert ("At random", 2, 0) in picks


def test_report(result: Result, tmp_path: Path) -> None:
    out = tmp_path / "report/report.html"
    pairs = [ConfusedPair(1, 3, 0.5, 0.25, 8, 4)]
    arguments: dict[str, Any] = {"title": "A <set>", "confused": pairs, "pictures": 6}
    summary = write_result_report(
        out, result.images, result.regions, result.labels, settings={"tau": 0.5}, **arguments
    )
    assert summary.images == 4
    page = out.read_text(encoding="utf-8")
    assert "<h1>A &lt;set&gt;</h1>" in page
    assert page.count('<figure class="ba">') == 4
    assert "image cannot be decoded" in page
    first = out.read_bytes()
    write_result_report(
        out, result.images, result.regions, result.labels, settings={"tau": 0.5}, **arguments
    )
    assert out.read_bytes() == first


def unpack(mask: dict[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(mask["$binary"]["base64"]))
    return np.load(io.BytesIO(data), allow_pickle=False)


def write(result: Result, out: Path, **options: Any) -> dict[str, Any]:
    shards = paired(result.regions, result.labels)
    write_fiftyone(out, result.images, shards, name="tiny", **options)
    samples = json.loads((out / "samples.json").read_text())["samples"]
    return {Path(s["filepath"]).name: s for s in samples}


def test_fiftyone_documents(result: Result, tmp_path: Path) -> None:
    samples = write(result, tmp_path / "fiftyone")
    assert list(samples) == ["0.png", "1.png", "3.png", "4.png"]
    first = samples["0.png"]
    assert Path(first["filepath"]) == Path(result.images.root, "ant/0.png").absolute()
    assert first["original"]["label"] == "ant"
    found = first["labels"]["classifications"]
    assert [(c["label"], c["confidence"]) for c in found] == [
        ("ant", 1.0),
        ("bee", 0.5),
        ("cow", 0.25),
    ]
    left, top = first["regions"]["detections"]
    assert top["label"] == "bee" and top["bounding_box"] == [0.5, 0, 0.5, 0.5]
    assert unpack(top["mask"]).shape == (3, 4) and unpack(top["mask"]).all()
    assert (left["area"], left["round"], left["confidence"]) == (24, 0, 0.75)
    assert first["num_labels"] == 3
    assert samples["1.png"]["regions"]["detections"] == []
    ids = [str(d["_id"]) for s in samples.values() for d in s["regions"]["detections"]]
    assert len(set(ids)) == 5

    again = tmp_path / "run/result/fiftyone"
    write(result, again)
    assert (again / "samples.json").read_bytes() == (
        tmp_path / "fiftyone/samples.json"
    ).read_bytes()
    (source,) = find_sources(tmp_path / "run")
    assert (source.name, source.path) == ("run", again)


def test_fiftyone_options(result: Result, tmp_path: Path) -> None:
    samples = write(result, tmp_path, min_prob=0.5, copy_images="link", limit=1)
    assert list(samples) == ["0.png"]
    assert samples["0.png"]["filepath"] == "data/ant/0.png"
    assert samples["0.png"]["num_labels"] == 2
    stored = tmp_path / "data/ant/0.png"
    assert stored.is_symlink()
    assert stored.read_bytes() == Path(result.images.root, "ant/0.png").read_bytes()


LOOK = """
top = s.regions.detections[1]
print(json.dumps({
    "n": len(d), "original": s.original.label, "tags": s.tags,
    "labels": [[c.label, c.confidence, c.origin] for c in s.labels.classifications],
    "mask": top.mask.tolist(), "type": str(top.mask.dtype), "round": top.round,
    "counts": d.count_values("labels.classifications.label"),
    "sure": d.filter_labels("regions", fo.ViewField("confidence") > 0.6).count(
        "regions.detections"),
    "original of the last": d.last().original.label,
}))
"""


@pytest.mark.fiftyone
@pytest.mark.slow
def test_fiftyone_loads_it(result: Result, tmp_path: Path) -> None:
    write(result, tmp_path / "out")
    found = looked_at_by_fiftyone(tmp_path / "out", LOOK, database=tmp_path / "db")
    assert found == {
        "n": 4,
        "original": "ant",
        "tags": ["train"],
        "labels": [["ant", 1.0, "label"], ["bee", 0.5, "region:1"], ["cow", 0.25, "region:1"]],
        "mask": [[True] * 4] * 3,
        "type": "bool",
        "round": 1,
        "counts": {"ant": 2, "bee": 3, "cow": 2, "dog": 1},
        "sure": 3,
        "original of the last": "bee",
    }
