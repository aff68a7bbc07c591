"""Stated sizes against those of the files, in every command that reads or uses images."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from relabel.cli import main
from relabel.datasets.convert import convert
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.pixels import sizes
from relabel.datasets.pixels.batches import ImageBatches
from relabel.datasets.pixels.image_folder import load_image, read_image_set
from relabel.datasets.pixels.location import load_rgb, zip_location
from relabel.datasets.pixels.sizes import check_sizes
from relabel.errors import DataError, Problems
from tests.builders.datasets import dataset_of, images_of, jpeg

NAMES = [f"{i}.jpg" for i in range(6)]
WAY_OUT = r"its size as stored\. .*exiftool -Orientation= FILE.*correct the size"


def photo(orientation: int, size: tuple[int, int] = (40, 24)) -> bytes:
    """A JPEG of (width, height) as stored, with an Exif orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def coco(root: Path, data: Callable[[int], bytes], size: tuple[int, int], n: int = 6) -> Path:
    """A COCO dataset of ``n`` images, all stated with one size; a box of 8 x 6 in each."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (root / f"{i}.jpg").write_bytes(data(i))
    content = {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]}
            for i in range(n)
        ],
        "annotations": [
            {"id": i, "image_id": 10 + i, "category_id": 1, "bbox": [2, 3, 8, 6], "area": 48}
            for i in range(n)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (root / "train.json").write_text(json.dumps(content))
    return root


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in args])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), " ".join((out + err).split())


def test_yolo_boxes_are_of_the_upright_picture(tmp_path: Path):
    for part in ("images/train", "labels/train"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [cup]\n")
    for orientation in range(1, 9):
        (tmp_path / f"images/train/{orientation}.jpg").write_bytes(photo(orientation))
        (tmp_path / f"labels/train/{orientation}.txt").write_text("0 0.25 0.25 0.5 0.5\n")
    dataset = read_dataset(tmp_path, "yolo")
    upright = [(40, 24)] * 4 + [(24, 40)] * 4
    assert list(zip(dataset.images.width, dataset.images.height, strict=True)) == upright
    assert dataset.boxes.xywh.tolist() == [[0, 0, w / 2, h / 2] for w, h in upright]
    assert [load_rgb(dataset, row).shape[1::-1] for row in range(8)] == upright
    # What is written from it, with the same files beside it, reads as the same.
    for form in ("coco", "voc", "yolo", "fiftyone"):
        out = tmp_path / form
        made = convert(dataset, form, out, images="copy").files[0]
        again = read_dataset(made if form == "coco" else out, form)
        assert list(zip(again.images.width, again.images.height, strict=True)) == upright
        assert np.allclose(again.boxes.xywh, dataset.boxes.xywh)
        assert load_rgb(again, 7).shape == (40, 24, 3)


def test_a_stated_upright_size_is_right(tmp_path: Path, capsys):
    root = coco(tmp_path / "phone", lambda _: photo(6), (24, 40))
    for command in ("describe", "validate"):
        status, text = run(capsys, "datasets", command, root, "--format", "coco")
        assert status == 0 and "Exif" not in text


def test_a_stated_size_as_stored_names_exif(tmp_path: Path, capsys):
    root = coco(tmp_path / "phone", lambda _: photo(6), (40, 24))
    coco(tmp_path / "town", lambda _: jpeg(40, 24), (40, 24))
    (tmp_path / "relabel.toml").write_text(
        "".join(
            f'[datasets.{name}]\nformat = "coco"\nroot = "{name}"\ntrain = "train.json"\n'
            for name in ("phone", "town")
        )
    )
    for command in (
        ["describe", root, "--format", "coco"],
        ["convert", root, "--format", "coco", "--to", "coco", "--out", tmp_path / "a.json"],
        ["convert", root, "--format", "coco", "--to", "yolo", "--out", tmp_path / "b"],
    ):
        status, text = run(capsys, "datasets", *command)
        assert status == 1
        for part in ("0.jpg, image 10: is 24x40", "orientation (6)", "say 40x24", "5 more of 6"):
            assert part in text
        assert "exiftool" in text
    assert not (tmp_path / "a.json").exists() and not (tmp_path / "b").exists()
    status, text = run(capsys, "datasets", "validate", root, "--format", "coco", "--no-decode")
    assert status == 1 and text.count("orientation (6)") == 6
    common = ["--config", tmp_path / "relabel.toml", "--out", tmp_path / "run"]
    for command in (
        ["align", "--sources", "phone", "--target", "town", "--dry-run"],
        ["train-specialist", "phone"],
    ):
        status, text = run(capsys, *command, *common)
        assert status == 1 and "exiftool" in text, text


def test_another_size_is_told_without_exif(tmp_path: Path):
    (tmp_path / "0.jpg").write_bytes(jpeg(20, 10))
    dataset = dataset_of("d", ["a"], images_of(["0.jpg"], (10, 20), ids=[77]), root=tmp_path)
    with pytest.raises(DataError, match=r"0\.jpg, image 77: is 20x10, but .* say 10x20\. Use"):
        load_rgb(dataset, 0)
    (tmp_path / "0.jpg").write_bytes(photo(8))
    for stated in ((99, 99), (24, 24)):
        with pytest.raises(DataError, match=r"is 24x40, but the annotations say"):
            load_rgb(dataset_of("d", ["a"], ["0.jpg"], root=tmp_path, size=stated), 0)
    with pytest.raises(DataError, match=WAY_OUT):
        load_rgb(dataset_of("d", ["a"], ["0.jpg"], root=tmp_path, size=(40, 24)), 0)


def mixed(tmp_path: Path, bad: set[int], n: int = 6):
    """Images of 40 x 24, some of which are turned by Exif; all stated as 40 x 24."""
    root = coco(tmp_path / "mixed", lambda i: photo(6 if i in bad else 3), (40, 24), n)
    return read_dataset(root / "train.json", "coco")


def test_bad_ones_are_skipped_and_counted(tmp_path: Path):
    dataset = mixed(tmp_path, {1, 4})
    problems = Problems(skip_bad=True)
    left = check_sizes(dataset, problems, most=100)
    assert left.images.id.tolist() == [10, 12, 13, 15] and len(left.boxes) == 4
    assert [p.record for p in problems.errors] == ["image 11", "image 14"]
    batches = ImageBatches(dataset, batch_size=3, problems=Problems(skip_bad=True))
    assert [rows.tolist() for rows, _ in batches] == [[0, 2], [3, 5]]
    with pytest.raises(DataError, match=r"1\.jpg, image 11: .*Exif"):
        list(ImageBatches(dataset, batch_size=3))


def test_large_sets_are_looked_at_here_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    look = sizes.check_size
    monkeypatch.setattr(sizes, "check_size", lambda d, row: (seen.append(row), look(d, row))[1])
    dataset = mixed(tmp_path, {99, 40}, n=100)
    check_sizes(dataset.subset(range(99)), Problems(), most=3)
    assert sorted(seen) == [0, 49, 98]
    # One that is found has all of them looked at, so that all can be left out.
    left = check_sizes(dataset, Problems(skip_bad=True), most=3)
    assert len(left) == 98
    with pytest.raises(DataError, match=r"image 109: .*Exif"):
        check_sizes(dataset, Problems(), most=3)
    with pytest.raises(DataError, match=r"image 50: .*\(and 1 more of 100 images looked at\)"):
        check_sizes(dataset, Problems(), most=100)


def test_absent_packed_and_damaged_images(tmp_path: Path):
    dataset = mixed(tmp_path, set())
    (dataset.root / "0.jpg").unlink()
    (dataset.root / "1.jpg").write_bytes(b"<html>404</html>")
    assert check_sizes(dataset, Problems(), most=9) is dataset
    with pytest.raises(DataError, match=r"1\.jpg, image 11: not an image: it is HTML"):
        check_sizes(dataset, Problems(), most=9, damaged=True)
    inside = ["", zip_location(tmp_path / "absent.zip", "1.jpg"), *[""] * 4]
    packed = replace(dataset, images=replace(dataset.images, location=inside))
    assert check_sizes(packed, Problems(), most=9, damaged=True) is packed


@pytest.mark.parametrize(("form", "extract"), [("coco", True), ("fiftyone", False), ("voc", False)])
def test_images_taken_out_of_archives_are_compared(tmp_path: Path, form: str, extract: bool):
    """A copy of bytes decodes nothing, and a reader of the new dataset takes sizes from it."""
    dataset = mixed(tmp_path, set())
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for i in range(6):
            stream.writestr(f"{i}.jpg", photo(1, (40, 25) if i == 1 else (40, 24)))
    inside = [zip_location(archive, f"{i}.jpg") for i in range(6)]
    packed = replace(dataset, images=replace(dataset.images, location=inside))
    kind: dict[str, Any] = {"images": "auto" if form == "voc" else "none"}
    with pytest.raises(DataError, match=r"1\.jpg, image 11: is 40x25, but the annotations say"):
        convert(packed, form, tmp_path / "out", extract_images=extract, **kind)
    assert not (tmp_path / "out").exists()
    problems = Problems(skip_bad=True)
    made = convert(
        packed, form, tmp_path / "rest", extract_images=extract, problems=problems, **kind
    )
    assert len(made.dataset) == 5 and len(problems.errors) == 1
    # Where nothing is taken out, nothing is read.
    assert len(convert(packed, "coco", tmp_path / "labels", images="none").dataset) == 6


def test_images_that_are_placed_are_images(tmp_path: Path):
    dataset = mixed(tmp_path, set())
    (dataset.root / "1.jpg").write_bytes(b"")
    (dataset.root / "2.jpg").write_bytes(photo(5))
    for form in ("voc", "yolo", "coco"):
        with pytest.raises(DataError, match=r"1\.jpg, image 11: .*empty \(and 1 more of 6"):
            convert(dataset, form, tmp_path / "out", images="link")
        assert not (tmp_path / "out").exists()
        problems = Problems(skip_bad=True)
        made = convert(dataset, form, tmp_path / form, images="link", problems=problems)
        assert len(made.dataset) == 4 and len(problems.errors) == 2


def test_classification_images_are_upright(tmp_path: Path):
    (tmp_path / "cup").mkdir()
    for orientation in (1, 6):
        (tmp_path / f"cup/{orientation}.jpg").write_bytes(photo(orientation))
    images = read_image_set(tmp_path)
    assert [load_image(images, row).shape for row in (0, 1)] == [(24, 40, 3), (40, 24, 3)]
