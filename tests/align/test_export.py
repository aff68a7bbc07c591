from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relabel.align.store import read_transferred, write_transferred
from relabel.catalogue.catalogue import DatasetEntry
from relabel.datasets.dataset import UNCERTAIN, DetectionDataset, Provenance, make_boxes
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.pixels.location import load_rgb
from relabel.datasets.pixels.placing import place_images, with_images_in
from relabel.errors import DataError


@pytest.fixture
def dataset(coco_set: Callable[..., Path]) -> DetectionDataset:
    root = coco_set("fine", ["car"], 3)
    return DatasetEntry("fine", root, "coco", files={"train": "train.json"}).read("train")


def test_plain_files_are_linked_without_symbolic_links(
    dataset: DetectionDataset, tmp_path: Path
) -> None:
    place_images(dataset, tmp_path / "out", "hard", quiet=True)
    for name in dataset.images.file_name:
        path = tmp_path / "out" / name
        assert path.samefile(dataset.root / name) and not path.is_symlink()
    assert with_images_in(dataset, tmp_path / "out") is dataset


@pytest.mark.parametrize("small", [True, False])
def test_without_hard_links_small_sets_are_copied(
    dataset: DetectionDataset, tmp_path: Path, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    if not small:
        monkeypatch.setattr("relabel.datasets.pixels.placing._COPIED_BYTES", 10)
    place_images(dataset, tmp_path / "out", "hard", quiet=True)
    for name in dataset.images.file_name:
        path = tmp_path / "out" / name
        assert path.is_symlink() is not small
        assert path.read_bytes() == (dataset.root / name).read_bytes()


def test_packed_images_are_taken_out(dataset: DetectionDataset, tmp_path: Path) -> None:
    archive = tmp_path / "img.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in dataset.images.file_name:
            packed.write(dataset.root / name, name)
    locations = [f"zip:{archive}!{name}" for name in dataset.images.file_name]
    packed_set = replace(
        dataset, root=tmp_path / "gone", images=replace(dataset.images, location=locations)
    )
    place_images(packed_set, tmp_path / "out", "hard", quiet=True)
    archive.unlink()
    plain = with_images_in(packed_set, tmp_path / "out")
    assert plain.root == tmp_path / "out"
    assert np.array_equal(load_rgb(plain, 2), load_rgb(dataset, 2))


def test_names_that_lead_out_are_refused(dataset: DetectionDataset, tmp_path: Path) -> None:
    names = ["../../evil.png", *dataset.images.file_name[1:]]
    bad = replace(dataset, images=replace(dataset.images, file_name=names))
    with pytest.raises(DataError, match=r"leads out.*image 1|image 1.*leads out"):
        place_images(bad, tmp_path / "out", "hard", quiet=True)


def test_transferred_boxes_come_back_exactly(dataset: DetectionDataset, tmp_path: Path) -> None:
    space = LabelSpace.from_names("target", ["van", "bus"])
    boxes = make_boxes(
        [0, 2],
        [[0.1, 1 / 3, 2, 3], [4, 5, 6, 7]],
        [1, 0],
        score=[0.25, np.nan],
        ignore=[False, True],
        id=[5, 9],
        provenance=Provenance(
            "fine",
            ["source", "pseudo:target"],
            np.array([3, -1]),
            ["car", ""],
            np.array([0.5, np.nan], np.float32),
        ),
    )
    write_transferred(dataset.with_boxes(boxes, space), tmp_path)
    found = read_transferred(tmp_path, dataset, space)
    for name in ("image", "xywh", "category", "score", "ignore", "id", "area"):
        np.testing.assert_array_equal(getattr(found.boxes, name), getattr(boxes, name))
    assert found.boxes.xywh[0, 1] == 1 / 3 and found.space is space
    origin = found.boxes.provenance
    assert origin is not None and list(origin.origin) == ["source", "pseudo:target"]
    assert origin.source_id.tolist() == [3, -1] and list(origin.source_category) == ["car", ""]
    doubtful = replace(
        boxes,
        ignore=np.array([True, True]),
        provenance=replace(origin, origin=[UNCERTAIN, "pseudo:target"]),
    )
    write_transferred(dataset.with_boxes(doubtful, space), tmp_path)
    shown = read_transferred(tmp_path, dataset, space).boxes
    trained = read_transferred(tmp_path, dataset, space, ignore_band=True).boxes
    # What is neither an object nor background is for a detector's training alone.
    assert shown.image.tolist() == [2] and shown.id.tolist() == [1]
    assert trained.image.tolist() == [0, 2] and trained.id.tolist() == [5, 9]
    (tmp_path / "boxes.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match=r"boxes\.parquet: not a readable shard"):
        read_transferred(tmp_path, dataset, space)
