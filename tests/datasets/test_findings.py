"""What `relabel datasets validate` finds in datasets that read well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main
from relabel.datasets import findings
from tests.builders.datasets import edit_json, write_json


@pytest.fixture
def validate(capsys: pytest.CaptureFixture[str]):
    def run(path: Path, *options: str, format: str = "coco") -> list[tuple[str, str]]:
        """(severity, message) of every problem."""
        with pytest.raises(SystemExit) as ended:
            main(["datasets", "validate", str(path), "--format", format, "--json", *options])
        result = json.loads(capsys.readouterr().out)
        assert result["ok"] == (not ended.value.code)
        return [(p["severity"], p["message"]) for p in result["problems"]]

    return run


def split_in_two(root: Path) -> None:
    """The last two of the four images of train.json go to val.json."""
    data = json.loads((root / "train.json").read_text())
    for name, keep in (("train", (1, 2)), ("val", (3, 4))):
        part = {
            "images": [i for i in data["images"] if i["id"] in keep],
            "annotations": [a for a in data["annotations"] if a["image_id"] in keep],
            "categories": data["categories"],
        }
        write_json(root / f"{name}.json", part)


def test_images_of_a_file_beside_are_not_called_unmentioned(coco_set, validate) -> None:
    root = coco_set("a", ["car"])
    split_in_two(root)
    (root / "train.json").rename(root / "first.json")
    (root / "val.json").rename(root / "second.json")
    assert validate(root / "first.json") == []
    (root / "second.json").unlink()
    assert [message for _, message in validate(root / "first.json")] == [
        "images in this folder that are not of the dataset, since no label mentions them: 2 "
        "(002.png, 003.png)"
    ]


def test_images_in_two_splits_are_found_by_content(coco_set, validate) -> None:
    root = coco_set("a", ["car"])
    split_in_two(root)
    assert validate(root) == []
    shutil.copy(root / "images/000.png", root / "images/003.png")
    message = "images that the splits train and val share, by content: 1 "
    message += "(images/000.png and images/003.png)"
    expected = [("warning", message)]
    assert validate(root) == expected
    assert validate(root, "--split", "val") == expected


def test_one_file_in_two_splits_is_found(coco_set, validate) -> None:
    root = coco_set("a", ["car"])
    split_in_two(root)
    train = json.loads((root / "train.json").read_text())

    def share(data: Any) -> None:
        data["images"][0]["file_name"] = train["images"][1]["file_name"]

    edit_json(root / "val.json", share)
    (root / "images/002.png").unlink()
    ((_, message),) = validate(root)
    assert message == "images that the splits train and val share, by content: 1 (images/001.png)"


def test_yolo_that_validates_on_its_training_images(coco_set, tmp_path: Path, validate) -> None:
    with pytest.raises(SystemExit):
        main(
            f"datasets convert {coco_set('a', ['car'])} --format coco --to yolo --images copy "
            f"--out {tmp_path}/yolo".split()
        )
    (tmp_path / "yolo/data.yaml").write_text(
        "train: images/train\nval: images/train\nnames: [car]\n"
    )
    ((_, message),) = validate(tmp_path / "yolo", format="yolo")
    assert message.startswith("images that the splits train and val share, by content: 4")


def test_every_split_is_checked(coco_set, validate) -> None:
    root = coco_set("a", ["car"])
    split_in_two(root)
    (root / "images/003.png").unlink()
    (root / "images/000.png").unlink()
    absent = [m.partition(".")[0] for _, m in validate(root)]
    assert absent == ["image file does not exist"] * 2
    assert len(validate(root, "--split", "val")) == 1


def test_doubtful_boxes_and_classes_come_with_counts_and_records(coco_set, validate) -> None:
    root = coco_set("a", ["car", "Traffic Light", "dog"])

    def change(data: Any) -> None:
        rows = data["annotations"]
        rows[2]["bbox"] = [60, 40, 10, 10]  # over the edge
        rows[5]["bbox"] = [70, 50, 10, 10]  # outside
        rows[8]["bbox"] = [10, 10, 0, 10]  # without area
        rows[11]["category_id"] = 5
        rows.append({**rows[0], "id": 50})
        data["categories"] += [{"id": i, "name": n} for i, n in ((4, "tram"), (5, "traffic_light"))]
        data["images"].append({"id": 9, "file_name": "images/009.png", "width": 64, "height": 48})

    edit_json(root / "train.json", change)
    (root / "images/009.png").write_bytes((root / "images/000.png").read_bytes())
    (root / "images/stray.png").write_bytes((root / "images/001.png").read_bytes() + b"x")
    (root / "images/._000.png").write_bytes(b"x")
    (root / "images/notes.txt").write_text("x")
    found = validate(root)
    assert {severity for severity, _ in found} == {"warning"}
    assert {message for _, message in found} == {
        "1 box partly outside their image: clipped (annotation 3)",
        "1 box wholly outside their image: dropped (annotation 6)",
        "1 box of zero area: dropped (annotation 9)",
        "boxes that repeat another of the same image, class and corners: 1 "
        "(annotation 50: 'car' [4, 5, 8, 6] on images/000.png)",
        "images in this folder that are not of the dataset, since no label mentions them: 1 "
        "(stray.png)",
        "images that are there more than once, by content: 1 (images/000.png and images/009.png)",
        "no boxes of 1 of 5 classes ('tram')",
        "no boxes on 1 of 5 images (images/009.png)",
        "the classes 'Traffic Light', 'traffic_light' may be one in several spellings; "
        "`relabel datasets convert --map` makes them one",
    }
    assert len(found) == 9


def test_only_files_of_equal_size_and_ends_are_read(coco_set, validate, monkeypatch) -> None:
    root = coco_set("a", ["car"])
    for i in range(4):
        file = root / f"images/00{i}.png"
        file.write_bytes(file.read_bytes() + b"x" * i)
    shutil.copy(root / "images/000.png", root / "images/003.png")
    read: list[str] = []
    whole = findings._whole
    monkeypatch.setattr(findings, "_whole", lambda path: read.append(path) or whole(path))
    assert len(validate(root)) == 1
    assert sorted(Path(path).name for path in read) == ["000.png", "003.png"]
