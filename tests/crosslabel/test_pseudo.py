"""Pseudo-labels as columns: access, filters, merging, reading, as a dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from relabel.crosslabel.pseudo import (
    PseudoLabels,
    merge_pseudo_labels,
    pseudo_to_dataset,
)
from relabel.crosslabel.shards import labelling_run, pseudo_shard, read_pseudo_labels
from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.errors import ConfigError, DataError
from relabel.workspace.columns import write_shard
from tests.builders.datasets import dataset_of, images_of

SPACE = LabelSpace.from_names("fine", ["car", "bus"])


def example() -> PseudoLabels:
    """Three images with 2, 0 and 1 boxes."""
    return PseudoLabels(
        space=SPACE,
        by="fine",
        on="coarse",
        file_name=["a.png", "b.png", "c.png"],
        image=np.array([0, 0, 2], np.int32),
        boxes=np.array([[1, 2, 4, 8], [0, 0, 5, 5], [2, 2, 3, 3.5]], np.float32),
        scores=np.array([[0.75, 0.25], [0.125, 0.5], [0.25, 0]], np.float32),
    )


def dataset() -> DetectionDataset:
    images = images_of(["a.png", "b.png", "c.png"], (10, 10), ids=[7, 8, 9])
    return dataset_of("coarse", ["vehicle"], images, root=Path("photos"))


def test_columns() -> None:
    labels = example()
    assert labels.category.tolist() == [0, 1, 0]
    assert labels.score.tolist() == [0.75, 0.5, 0.25]
    assert labels.offsets.tolist() == [0, 2, 2, 3]
    assert [labels.rows(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert labels.coverage.tolist() == [True, True, True]
    assert labels.filter(0.5).image.tolist() == [0, 0]
    assert labels.filter(0.51).scores.tolist() == [[0.75, 0.25]]
    empty = labels.filter(1.0)
    assert (len(empty), empty.category.tolist(), empty.score.tolist()) == (0, [], [])
    assert empty.offsets.tolist() == [0, 0, 0, 0]


def test_thresholds_by_class() -> None:
    labels = example()
    assert labels.filter([0.25, 0.6]).score.tolist() == [0.75, 0.25]
    assert labels.filter([2, 0.1]).category.tolist() == [1]
    with pytest.raises(ConfigError, match="3 thresholds for the 2 classes of 'fine'"):
        labels.filter([0.5] * 3)


def test_images_are_joined_by_name() -> None:
    joined = example().for_images(["c.png", "new.png", "a.png"])
    assert joined.image.tolist() == [0, 2, 2]
    assert joined.scores[:, 0].tolist() == [0.25, 0.75, 0.125]
    assert joined.coverage.tolist() == [True, False, True]
    assert len(example().for_images([])) == 0


def test_merge_of_cross_fitted_parts() -> None:
    labels = example()
    masks = [np.array([True, False, False]), np.array([False, True, True])]
    parts = []
    for k, mask in enumerate(masks):
        names = [n if m else "" for n, m in zip(labels.file_name, mask, strict=True)]
        part = labels.take(mask[labels.image])
        parts.append(replace(part, by=f"fold{k}", file_name=names, covered=mask))
    merged = merge_pseudo_labels([parts[1], parts[0]])
    assert merged.file_name == labels.file_name
    assert merged.coverage.all()
    assert merged.by == "fold1+fold0"
    for column in ("image", "boxes", "scores"):
        assert np.array_equal(getattr(merged, column), getattr(labels, column))
    rated = replace(parts[1], quality=np.ones(len(parts[1]), np.float32))
    empty = parts[0].filter(2.0)
    assert merge_pseudo_labels([empty, rated]).quality == pytest.approx(np.ones(len(rated)))
    with pytest.raises(DataError, match="only one has a quality"):
        merge_pseudo_labels([parts[0], rated])
    with pytest.raises(DataError, match=r"cover a\.png again"):
        merge_pseudo_labels([parts[0], parts[0]])
    with pytest.raises(DataError, match="another label space"):
        other = LabelSpace.from_names("fine", ["car", "tram"])
        merge_pseudo_labels([parts[0], replace(parts[1], space=other)])
    with pytest.raises(DataError, match="other datasets"):
        merge_pseudo_labels([parts[0], replace(parts[1], on="legacy")])
    with pytest.raises(DataError, match="no pseudo-labels"):
        merge_pseudo_labels([])


def test_as_a_dataset() -> None:
    made = pseudo_to_dataset(example(), dataset(), 0.5)
    assert made.space is SPACE
    assert made.boxes.image.tolist() == [0, 0]
    assert made.boxes.xywh.tolist() == [[1, 2, 3, 6], [0, 0, 5, 5]]
    assert made.boxes.category.tolist() == [0, 1]
    assert made.boxes.score.tolist() == [0.75, 0.5]
    assert made.boxes.provenance is not None
    assert made.boxes.provenance.origin == ["pseudo:fine"] * 2
    part = dataset().subset([2, 1])
    assert pseudo_to_dataset(example(), part, 0.1).boxes.image.tolist() == [0]
    holes = replace(example(), covered=np.array([True, False, True]))
    with pytest.raises(DataError, match=r"1 of 3 images .* b\.png"):
        pseudo_to_dataset(holes, dataset(), 0.5)
    rest = pseudo_to_dataset(holes, dataset().subset([0, 2]), 0.1)
    assert list(rest.images.file_name) == ["a.png", "c.png"]
    assert rest.boxes.image.tolist() == [0, 0, 1]


def write_example(folder: Path, storage: str = "float16", quality: bool = False) -> None:
    """Two shards: images 0 and 1 (one box in the first), then 2 (not readable) and 4 (a box)."""
    run = labelling_run(
        SPACE, by="fine", on="coarse", images=5, settings={"score_storage": storage}, model=""
    )
    found = Detections(
        np.array([[0.1, 2, 4, 8]], np.float32),
        np.array([[0.1, 0.7]], np.float32),
        np.array([0.5], np.float32) if quality else None,
    )
    none = Detections(
        np.zeros((0, 4), np.float32),
        np.zeros((0, 2), np.float32),
        np.zeros(0, np.float32) if quality else None,
    )
    write_shard(
        folder / "shard-00000-of-00002.parquet",
        pseudo_shard(run, [0, 1], ["a.png", "é.png"], {0: found, 1: none}),
    )
    write_shard(
        folder / "shard-00001-of-00002.parquet",
        pseudo_shard(run, [2, 4], ["c.png", "e.png"], {4: found}),
    )


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("quality", [False, True])
def test_shards_are_read_as_written(tmp_path: Path, storage: str, quality: bool) -> None:
    write_example(tmp_path, storage, quality)
    labels = read_pseudo_labels(tmp_path)
    assert (labels.space, labels.by, labels.on) == (SPACE, "fine", "coarse")
    assert labels.file_name == ["a.png", "é.png", "c.png", "", "e.png"]
    assert labels.coverage.tolist() == [True, True, False, False, True]
    assert labels.image.tolist() == [0, 4]
    assert labels.boxes.tolist() == [[np.float32(0.1), 2, 4, 8]] * 2
    assert labels.scores.dtype == np.float32
    expected = np.array([[0.1, 0.7]] * 2).astype(storage).astype(np.float32)
    assert np.array_equal(labels.scores, expected)
    assert (labels.quality is None) is not quality
    table = pq.read_table(tmp_path / "shard-00001-of-00002.parquet")
    assert table.column("category").to_pylist() == [[], [1]]
    assert table.column("file_name").to_pylist() == ["c.png", "e.png"]


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    # It may be a folder of something else, named by mistake: nobody is told to remove it.
    with pytest.raises(DataError, match=r"no shards.*Check the path") as caught:
        read_pseudo_labels(tmp_path / "nothing")
    assert "Remove" not in str(caught.value)
    write_example(tmp_path)
    second = tmp_path / "shard-00001-of-00002.parquet"
    whole = second.read_bytes()

    def refused(data: bytes | None, said: str) -> None:
        second.unlink(missing_ok=True)
        if data is not None:
            second.write_bytes(data)
        with pytest.raises(DataError, match=said) as error:
            read_pseudo_labels(tmp_path)
        assert error.value.file == str(second if data is not None else tmp_path)

    refused(None, f"lacks 1 of 2 shards, such as {second.name}")
    refused(b"", "not a readable shard")
    refused(whole[:-30], "not a readable shard")
    second.write_bytes(whole)
    columns = pq.read_metadata(second).row_group(0)
    of = [columns.column(i).path_in_schema.split(".")[0] for i in range(columns.num_columns)]
    column = columns.column(of.index("boxes"))  # one bit of its page
    at = column.data_page_offset + column.total_compressed_size - 1
    refused(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "not a readable shard")
    foreign = tmp_path / "foreign.parquet"
    second.write_bytes(whole)
    pq.write_table(pq.read_table(second).replace_schema_metadata(None), foreign)
    refused(foreign.read_bytes(), "not a readable shard")
    run = labelling_run(
        SPACE, by="fine", on="legacy", images=5, settings={"score_storage": "float16"}, model=""
    )
    write_shard(second, pseudo_shard(run, [2], ["c.png"], {}))
    refused(second.read_bytes(), "another run")
    write_shard(tmp_path / "shard-00000-of-00003.parquet", pseudo_shard(run, [0], ["a.png"], {}))
    with pytest.raises(DataError, match="of 2 and of 3 shards"):
        read_pseudo_labels(tmp_path)
