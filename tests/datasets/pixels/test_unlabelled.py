"""A folder of photos without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from relabel.datasets.pixels.location import load_rgb
from relabel.datasets.pixels.unlabelled import read_unlabelled, without_images_of
from relabel.errors import DataError, Problems


def photo(file: Path, size: tuple[int, int], orientation: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (10, 200, 30)).save(file, exif=exif)


def test_all_images_below_a_folder_with_their_upright_sizes(tmp_path: Path) -> None:
    photo(tmp_path / "b.jpg", (40, 30))
    photo(tmp_path / "deep" / "er" / "a.JPG", (20, 60), orientation=6)
    photo(tmp_path / "c.png", (8, 9))
    (tmp_path / "notes.txt").write_text("no image")
    found = read_unlabelled(tmp_path, "photos", Problems())
    assert found.images.file_name == ["b.jpg", "c.png", "deep/er/a.JPG"]
    sizes = np.stack([found.images.width, found.images.height], axis=1).tolist()
    assert sizes == [[40, 30], [8, 9], [60, 20]]
    assert len(found.boxes) == 0 and found.space.num_classes == 0
    assert [load_rgb(found, row).shape for row in range(3)] == [
        (30, 40, 3),
        (9, 8, 3),
        (20, 60, 3),
    ]


def test_a_damaged_image_is_named_or_left_out(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", (40, 30))
    (tmp_path / "b.jpg").write_bytes(b"no jpeg")
    with pytest.raises(DataError) as caught:
        read_unlabelled(tmp_path, "photos", Problems())
    assert caught.value.file == f"{tmp_path}/b.jpg"
    problems = Problems(skip_bad=True)
    assert read_unlabelled(tmp_path, "photos", problems).images.file_name == ["a.jpg"]
    assert len(problems.errors) == 1


def test_a_folder_without_images_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        read_unlabelled(tmp_path, "photos", Problems())


def test_images_of_another_dataset_are_told_by_their_place(tmp_path: Path) -> None:
    for name in ("a.png", "deep/a.png", "deep/b.png"):
        photo(tmp_path / name, (8, 9))
    both = read_unlabelled(tmp_path, "both", Problems())
    deep = read_unlabelled(tmp_path / "deep" / ".." / "deep", "deep", Problems())
    assert without_images_of(both, [deep.subset([1])]).images.file_name == ["a.png", "deep/a.png"]
    assert without_images_of(both, [deep]).images.file_name == ["a.png"]
    assert without_images_of(both, []) is both
