"""Where COCO files and their images are found: splits, hidden files, Windows paths, roots."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from relabel.datasets.convert import convert
from relabel.datasets.formats.registry import read_dataset, write_dataset
from relabel.datasets.pixels.location import image_location
from relabel.errors import DataError, Problems
from tests.builders.datasets import write_image, write_json


def content(*names: str, **more: Any) -> dict[str, Any]:
    images = [{"id": i, "file_name": n, "width": 8, "height": 6} for i, n in enumerate(names, 1)]
    boxes = [
        {"id": i["id"], "image_id": i["id"], "category_id": 1, "bbox": [1, 1, 2, 2]} for i in images
    ]
    categories = [{"id": 1, "name": "box"}]
    return {"images": images, "annotations": boxes, "categories": categories, **more}


def image(path: Path) -> Path:
    return write_image(path, 8, 6)


def told(path: Path, **options: Any) -> tuple[Any, list[str]]:
    problems = Problems()
    dataset = read_dataset(path, "coco", problems=problems, **options)
    assert problems.ok
    return dataset, [p.message for p in problems.found]


def test_an_export_with_one_split_is_one_file(tmp_path: Path) -> None:
    write_json(tmp_path / "train/_annotations.coco.json", content("a.jpg"))
    image(tmp_path / "train/a.jpg")
    for split in (None, "train", "training", "Train"):
        dataset, warnings = told(tmp_path, split=split)
        assert dataset.image_path(0) == tmp_path / "train/a.jpg"
        assert warnings == []


@pytest.mark.parametrize(
    "file",
    [
        "valid/_annotations.coco.json",
        "valid.json",
        "annotations/instances_valid.json",
        "annotations/instances_valid2017.json",
        "annotations/my_valid_boxes.json",
    ],
)
def test_a_split_goes_by_several_names(tmp_path: Path, file: str) -> None:
    write_json(tmp_path / file, content("a.jpg"))
    write_json(tmp_path / "train.json", content("b.jpg"))
    write_json(tmp_path / "annotations/device.json", content("c.jpg"))
    for split in ("valid", "val", "validation", "dev"):
        dataset, _ = told(tmp_path, split=split)
        assert list(dataset.images.file_name) == ["a.jpg"]
    with pytest.raises(DataError, match=r"split 'test'.*train\.json"):
        read_dataset(tmp_path, "coco", split="test")


def test_compressed_files_are_found(tmp_path: Path) -> None:
    import gzip

    image(tmp_path / "images/a.jpg")
    (tmp_path / "train.json.gz").write_bytes(
        gzip.compress(json.dumps(content("a.jpg")).encode(), mtime=0)
    )
    for split in (None, "train"):
        dataset, warnings = told(tmp_path, split=split)
        assert dataset.image_path(0).is_file()
        assert warnings == []


def test_hidden_files_are_no_data(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations/instances_train.json", content("a.jpg"))
    for name in ("annotations/._instances_train.json", "__MACOSX/a.json", ".cache/train.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    for split in (None, "train"):
        assert len(told(tmp_path, split=split)[0]) == 1


def test_paths_of_windows(tmp_path: Path) -> None:
    names = ("cam1\\a.jpg", ".\\cam2\\a.jpg", "images\\b.jpg")
    write_json(tmp_path / "result.json", content(*names))
    for name in ("cam1/a.jpg", "cam2/a.jpg", "images/b.jpg"):
        image(tmp_path / name)
    dataset, warnings = told(tmp_path)
    assert warnings == []
    assert dataset.images.file_name[0] == "cam1/a.jpg"
    assert all(dataset.image_path(i).is_file() for i in range(3))
    write_json(tmp_path / "result.json", content("C:\\data\\a.jpg"))
    with pytest.raises(DataError, match=r"image 1.*not relative"):
        read_dataset(tmp_path, "coco")


def test_absent_images_are_counted(tmp_path: Path) -> None:
    file = write_json(tmp_path / "t.json", content("a.jpg", "sub/b.jpg", "c.jpg"))
    assert told(file)[1] == [f"0 of 3 images found in {tmp_path} (absent: a.jpg, c.jpg, sub/b.jpg)"]
    image(tmp_path / "c.jpg")
    assert told(file)[1] == [f"1 of 3 images found in {tmp_path} (absent: a.jpg, sub/b.jpg)"]
    image(tmp_path / "a.jpg")
    image(tmp_path / "sub/b.jpg")
    assert told(file)[1] == []


def test_images_in_folders_that_their_names_leave_out(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg")
    file = write_json(tmp_path / "t.json", content(*names))
    places = [image(tmp_path / "images" / f) for f in ("seq1/a.jpg", "seq2/deep/b.jpg")]
    for folder in ("seq1", "seq2"):
        image(tmp_path / "images" / folder / "c.jpg")
    dataset, warnings = told(file)
    assert list(dataset.images.file_name) == list(names)
    assert [image_location(dataset, i) for i in range(2)] == [str(p) for p in places]
    assert warnings == [f"2 of 3 images found in {tmp_path} (absent: c.jpg)"]


def test_the_root_class_of_an_export_is_named(tmp_path: Path) -> None:
    made = content("a.jpg")
    made["categories"] = [
        {"id": 0, "name": "goods", "supercategory": "none"},
        {"id": 1, "name": "box", "supercategory": "goods"},
        {"id": 2, "name": "pallet", "supercategory": "goods"},
    ]
    image(tmp_path / "a.jpg")
    _, warnings = told(write_json(tmp_path / "t.json", made))
    assert len(warnings) == 1
    assert warnings[0].startswith("category 'goods' has no boxes and only groups others (box, pal")
    made["annotations"][0]["category_id"] = 0
    assert told(write_json(tmp_path / "t.json", made))[1] == []
    # COCO's person is of the supercategory person.
    made["categories"] = [{"id": i, "name": n, "supercategory": n} for i, n in enumerate("ab")]
    assert told(write_json(tmp_path / "t.json", made))[1] == []


def stating(root: str) -> dict[str, Any]:
    return content("a.jpg", info={"relabel": {"root": root}})


@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "fiftyone"])
@pytest.mark.parametrize("root", ["../secret", "..", "in/../../secret", "..\\secret"])
def test_images_are_not_placed_from_outside_on_a_files_word(
    tmp_path: Path, root: str, to: str, mode: Any
) -> None:
    for folder in ("secret", "."):
        image(tmp_path / folder / "a.jpg")
    file = write_json(tmp_path / "set/t.json", stating(root))
    for path in (file, tmp_path / "set"):
        dataset = read_dataset(path, "coco")
        assert dataset.image_path(0).is_file()  # pixels are read there
        with pytest.raises(DataError, match=r"leads out of its own.*--root"):
            convert(dataset, to, tmp_path / "out", images=mode)
    assert not (tmp_path / "out").exists()


def test_a_root_inside_or_given_by_the_user_is_used(tmp_path: Path) -> None:
    image(tmp_path / "set/images/a.jpg")
    for place, root in (("t.json", "images"), ("annotations/t.json", "../images")):
        dataset = read_dataset(write_json(tmp_path / "set" / place, stating(root)), "coco")
        assert not dataset.outside
        (tmp_path / "set" / place).unlink()
    file = write_json(tmp_path / "runs/t.json", stating("../set/images"))
    assert read_dataset(file, "coco").outside
    given = read_dataset(tmp_path, "coco", annotations="runs/t.json")
    assert not given.outside
    convert(given, "coco", tmp_path / "out", images="copy")
    assert (tmp_path / "out/images/a.jpg").is_file()


def test_a_folder_around_the_datasets_own_is_outside_too(tmp_path: Path) -> None:
    image(tmp_path / ".keys/a.jpg")
    file = write_json(tmp_path / "set/t.json", content(".keys/a.jpg"))
    dataset = read_dataset(file, "coco")
    assert dataset.image_path(0).is_file()
    with pytest.raises(DataError, match="leads out of its own"):
        convert(dataset, "coco", tmp_path / "out", images="copy")
    assert not read_dataset(
        write_json(tmp_path / "annotations/t.json", content("a.jpg")), "coco"
    ).outside


def test_an_absolute_root_is_no_root(tmp_path: Path) -> None:
    image(tmp_path / "secret/a.jpg")
    file = write_json(tmp_path / "set/t.json", stating(str(tmp_path / "secret")))
    assert read_dataset(file, "coco").root == tmp_path / "set"


def test_our_own_outputs_lead_back_to_their_images(tmp_path: Path) -> None:
    image(tmp_path / "set/a.jpg")
    dataset = read_dataset(write_json(tmp_path / "set/t.json", content("a.jpg")), "coco")
    out = write_dataset(dataset, "coco", tmp_path / "out/labels.json")[0]
    image(tmp_path / "out/a.jpg")  # of another dataset: what the file says comes first
    again = read_dataset(out, "coco")
    assert again.image_path(0).resolve() == tmp_path / "set/a.jpg"
    shutil.rmtree(tmp_path / "set")
    assert read_dataset(out, "coco").root == tmp_path / "out"
