"""Shards of regions, scores and labels; masks as COCO run lengths."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from relabel.errors import DataError
from relabel.multilabel.store import (
    Found,
    LabelShard,
    RegionShard,
    ScoreShard,
    decode_mask,
    encode_mask,
    read_labels,
    read_regions,
    read_scores,
    region_shard,
)
from relabel.workspace.columns import iterate, shard_paths, write_shard

RUN = {"backbone": "tiny", "tau": 0.5, "layers": [1, 2]}
MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


@given(MASKS)
def test_run_lengths_are_those_of_another_implementation(mask: np.ndarray) -> None:
    from hotcoco import mask as other

    theirs = other.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = encode_mask(mask)
    assert theirs["size"] == list(mask.shape)
    assert counts == theirs["counts"].decode()
    assert np.array_equal(decode_mask(counts, *mask.shape), mask)
    assert np.array_equal(other.decode(theirs), mask)


def test_run_lengths_of_a_large_mask() -> None:
    from hotcoco import mask as other

    y, x = np.ogrid[:480, :333]
    mask = (y - 200) ** 2 + (x - 150) ** 2 < 90**2
    counts = encode_mask(mask)
    assert counts == other.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(decode_mask(counts, 480, 333), mask)


@pytest.mark.parametrize("size", [(4, 3), (3, 5), (30, 1), (2, 5)])
def test_run_lengths_of_another_size_are_refused(size: tuple[int, int]) -> None:
    counts = encode_mask(np.eye(3, 4, dtype=bool))
    if size == (4, 3):  # as many pixels: a swap of height and width cannot be seen in the counts
        assert decode_mask(counts, *size).sum() == 3
        return
    with pytest.raises(ValueError, match=r"the runs do not cover|Invalid RLE"):
        decode_mask(counts, *size)


@pytest.mark.parametrize("counts", ["\xff", "oooooooo", "1o", "0!"])
def test_damaged_run_lengths(counts: str) -> None:
    with pytest.raises(ValueError, match="Invalid RLE"):
        decode_mask(counts, 1, 1)


def found_regions(masks: np.ndarray, **values: Any) -> Found:
    """Regions of 3 channels."""
    n = len(masks)
    defaults = {"patch_area": np.ones(n), "round": np.zeros(n), "features": np.zeros((n, 3))}
    return Found.of(masks, **{**defaults, "whole": np.full(3, 0.5), **values})


def some_regions(first: int = 10, seed: int = 0) -> RegionShard:
    """Three images: 5 x 4 with two regions, one unreadable, 3 x 6 without a region."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, 4, 5), bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 3, 0] = True
    two = found_regions(
        masks,
        patch_area=np.array([2.5, 1.0]),
        round=np.array([0, 2]),
        features=rng.normal(size=(2, 3)),
    )
    none = found_regions(np.zeros((0, 6, 3), bool))
    images = [
        (first, "a/ä.jpg", two),
        (first + 1, "b.jpg", "image cannot be decoded"),
        (first + 3, "c.jpg", none),
    ]
    return region_shard(RUN, 3, images)


def score_shard() -> ScoreShard:
    return ScoreShard(
        run=RUN,
        row=np.array([10, 11, 13], np.int32),
        offsets=np.array([0, 2, 2, 2]),
        own=np.array([0.75, np.nan], np.float32),
        ids=np.array([[3, 1], [7, -1]], np.int32),
        probs=np.array([[0.6, 0.3], [1, 0]], np.float32),
    )


def label_shard() -> LabelShard:
    return LabelShard(
        run=RUN,
        row=np.array([10, 11, 13], np.int32),
        file_name=["a", "b", "c"],
        gt=np.array([3, -1, 0], np.int32),
        offsets=np.array([0, 1, 1, 2]),
        ids=np.array([[3], [5]], np.int32),
        probs=np.array([[0.5], [0.25]], np.float32),
        label_offsets=np.array([0, 2, 2, 3]),
        label_ids=np.array([3, 9, 0], np.int32),
        label_probs=np.array([1, 0.125, 1], np.float32),
    )


READERS = {RegionShard: read_regions, ScoreShard: read_scores, LabelShard: read_labels}
SHARDS = [some_regions(), score_shard(), label_shard()]


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        equal = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        return one.dtype == other.dtype and equal
    return one == other


@pytest.mark.parametrize("shard", SHARDS, ids=lambda s: type(s).__name__)
def test_round_trip_and_equal_bytes(tmp_path: Path, shard) -> None:
    write_shard(tmp_path / "a.parquet", shard)
    again = READERS[type(shard)](tmp_path / "a.parquet")
    for name in shard.__dataclass_fields__:
        assert same(getattr(again, name), getattr(shard, name)), name
    write_shard(tmp_path / "b.parquet", again)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_masks_and_sizes_of_a_some_regions(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", some_regions())
    shard = read_regions(tmp_path / "a.parquet")
    assert (shard.width.tolist(), shard.height.tolist()) == ([5, 0, 3], [4, 0, 6])
    assert shard.readable.tolist() == [True, False, True]
    assert shard.area.tolist() == [6, 1]
    masks = shard.masks(0)
    assert masks.shape == (2, 4, 5)
    assert masks[0, 1:3, 2:5].all() and masks[0].sum() == 6
    assert masks[1, 3, 0] and masks[1].sum() == 1
    assert shard.masks(2).shape == (0, 6, 3)
    assert list(shard.regions(0)) == [0, 1] and list(shard.regions(1)) == []
    assert shard.features is not None and shard.features.dtype == np.float16
    without = read_regions(tmp_path / "a.parquet", features=False)
    assert without.features is None
    assert without.rle == shard.rle


def test_parquet_opens_elsewhere(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_shard(tmp_path / "a.parquet", some_regions())
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == ["a/ä.jpg", "b.jpg", "c.jpg"]
    rle: Any = {"size": [rows[0]["height"], rows[0]["width"]], "counts": rows[0]["rle"][0]}
    assert coco.area(rle) == 6
    assert coco.toBbox(rle).tolist() == [2, 1, 3, 2]
    assert [len(f) for f in rows[0]["features"]] == [3, 3]


def test_shards_without_images_or_regions(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", region_shard(RUN, 4, []))
    shard = read_regions(tmp_path / "a.parquet")
    assert len(shard) == 0 and shard.offsets.tolist() == [0]
    assert shard.features is not None and shard.features.shape == (0, 4)


def test_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    shard, path = label_shard(), tmp_path / "a.parquet"
    for change, match in (
        ({"gt": shard.gt[:2]}, "column gt has 2 values, not 3"),
        ({"offsets": np.array([0, 2, 1, 2])}, "offsets are not offsets"),
        ({"label_ids": shard.label_ids[:1]}, "column label_ids has 1 values, not 3"),
        ({"row": np.array([1, 1, 2], np.int32)}, "rows do not ascend"),
    ):
        with pytest.raises(ValueError, match=match):
            write_shard(path, replace(shard, **change))
    with pytest.raises(ValueError, match="column features is missing"):
        write_shard(path, replace(some_regions(), features=None))
    one = found_regions(np.ones((2, 1, 1), bool), patch_area=np.ones(1))
    with pytest.raises(ValueError, match="column patch_area has 1 values, not 2"):
        write_shard(path, region_shard(RUN, 3, [(0, "x", one)]))
    assert not path.exists()


def test_errors_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match=r"a\.parquet: shard is missing"):
        read_regions(path)
    write_shard(path, label_shard())
    with pytest.raises(DataError, match="not a readable shard of regions: it holds labels"):
        read_regions(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable shard of labels"):
        read_labels(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a readable shard of labels"):
        read_labels(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "a.parquet"
    write_shard(path, some_regions())
    return path


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_damage_goes_unnoticed(written: Path, place: float, flip: int) -> None:
    data = bytearray(written.read_bytes())
    data[int(place * len(data))] ^= flip
    damaged = written.with_name("damaged.parquet")
    damaged.write_bytes(data)
    expected = some_regions()
    try:
        found = read_regions(damaged)
    except DataError as error:
        assert str(damaged) in str(error) and error.remedy
        return
    # A byte that nothing depends on, such as one of a statistic.
    for name in expected.__dataclass_fields__:
        assert same(getattr(found, name), getattr(expected, name)), name


def test_a_folder_of_shards(tmp_path: Path) -> None:
    def write(i: int, total: int, shard: RegionShard) -> None:
        write_shard(tmp_path / f"shard-{i:05d}-of-{total:05d}.parquet", shard)

    with pytest.raises(DataError, match="holds no shards"):
        shard_paths(tmp_path)
    write(0, 2, some_regions(0))
    with pytest.raises(DataError, match=r"lacks 1 of 2 shards, such as shard-00001-of-00002"):
        shard_paths(tmp_path)
    write(1, 2, some_regions(4, seed=1))
    paths = shard_paths(tmp_path)
    read = partial(read_regions, features=False)
    assert [s.row.tolist() for s in iterate(paths, read)] == [[0, 1, 3], [4, 5, 7]]

    write(1, 2, some_regions(3))
    with pytest.raises(DataError, match="holds images of an earlier shard"):
        list(iterate(paths, read_regions))
    write(1, 2, replace(some_regions(4), run={**RUN, "tau": 0.25}))
    with pytest.raises(DataError, match="another run than the first shard"):
        list(iterate(paths, read_regions))
    write(0, 3, some_regions())
    with pytest.raises(DataError, match="runs of different sizes"):
        shard_paths(tmp_path)
