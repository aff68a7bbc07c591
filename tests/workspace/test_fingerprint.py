from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.dataset import DetectionDataset
from relabel.datasets.fingerprint import dataset_fingerprint
from relabel.datasets.labelspace import LabelSpace
from relabel.errors import DataError
from relabel.workspace.fingerprint import (
    file_fingerprint,
    fingerprint,
    folder_fingerprint,
    source_identity,
)
from tests.builders.datasets import dataset_of, images_of


def test_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2],"b":"x"}').hexdigest()
    assert fingerprint({"b": "x", "a": (1, 2)}) == expected
    assert fingerprint({"a": np.array([1, 2]), "b": Path("x")}) == expected
    assert fingerprint({"a": [2, 1], "b": "x"}) != expected


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_fingerprint(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    before = folder_fingerprint(tmp_path)
    (tmp_path / ".lock").write_text("7")
    os.utime(tmp_path / "a", (0, 0))
    assert folder_fingerprint(tmp_path) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert folder_fingerprint(tmp_path) != before
    with pytest.raises(DataError, match="missing"):
        file_fingerprint(tmp_path / "missing")


def test_a_network_is_its_name_and_its_files(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "net").mkdir(parents=True)
        (tmp_path / place / "net" / "config.json").write_text("{}")
    one, other = str(tmp_path / "here" / "net"), str(tmp_path / "there" / "net")
    assert source_identity(one) == source_identity(other)
    assert source_identity(one) == f"net@{folder_fingerprint(one)[:12]}"
    (tmp_path / "there" / "net" / "config.json").write_text("{} ")
    assert source_identity(one) != source_identity(other)
    assert source_identity("facebook/dinov2-base") == "facebook/dinov2-base"
    assert source_identity("") == ""


def _dataset(root: Path) -> DetectionDataset:
    images = images_of(["a.jpg", "b.jpg"], (9, 9), ids=[7, 8])
    boxes = [(0, [1, 2, 3, 4], 0), (1, [5, 6, 1, 1], 0)]
    root.mkdir(exist_ok=True)
    (root / "a.jpg").write_bytes(b"123")
    (root / "b.jpg").write_bytes(b"4567")
    return dataset_of("d", ["car"], images, boxes, root=root)


def test_dataset_does_not_depend_on_its_place_or_times(tmp_path: Path) -> None:
    one, two = _dataset(tmp_path / "one"), _dataset(tmp_path / "two")
    os.utime(tmp_path / "two" / "a.jpg", (0, 0))
    assert dataset_fingerprint(one) == dataset_fingerprint(two)


def test_dataset_sees_boxes_classes_and_image_sizes(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "d")
    first = dataset_fingerprint(dataset)
    images = dataset_fingerprint(dataset, boxes=False)
    moved = dataset.boxes.xywh.copy()
    moved[1, 0] += 1e-9
    changed = dataset.with_boxes(replace(dataset.boxes, xywh=moved))
    assert dataset_fingerprint(changed) != first
    assert dataset_fingerprint(changed, boxes=False) == images
    renamed = replace(dataset, space=LabelSpace.from_names("d", ["van"]))
    assert dataset_fingerprint(renamed) != first
    (tmp_path / "d" / "a.jpg").write_bytes(b"1234")
    assert dataset_fingerprint(dataset) != first
    assert dataset_fingerprint(dataset, boxes=False) != images
