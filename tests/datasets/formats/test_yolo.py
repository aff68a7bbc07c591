from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relabel.datasets.dataset import make_boxes
from relabel.datasets.formats.registry import read_dataset
from relabel.datasets.formats.yolo import write as yolo
from relabel.errors import ConfigError, DataError, Problems
from tests.builders.datasets import dataset_of, write_image


def picture(file: Path, size=(200, 100)) -> None:
    write_image(file, *size)


def make(root: Path, labels: dict[str, str], config=None) -> Path:
    """Images images/NAME.png of 200x100 with the given label files."""
    for name, text in labels.items():
        picture(root / "images" / f"{name}.png")
        file = root / "labels" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    config = config or {"train": "images/train", "val": "images/val", "names": ["car", "dog"]}
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    return root


def test_rows_are_fractions_of_the_image(tmp_path):
    make(
        tmp_path,
        {
            # No newline at the end, a blank line, and a polygon that counts by its bounds.
            "train/a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.4 0.2 0.3 0.8",
            "train/b": "",
            "val/c": "0 0.25 0.5 0.5 1 0.75\n",
        },
    )
    picture(tmp_path / "images/train/d.png")
    train = read_dataset(tmp_path, "yolo", split="train")
    assert list(train.images.file_name) == [f"images/train/{n}.png" for n in "abd"]
    assert train.boxes.image.tolist() == [0, 0]
    assert train.boxes.xywh == pytest.approx(np.array([[75, 25, 50, 50], [20, 20, 60, 60]]))
    assert train.boxes.category.tolist() == [1, 0]
    assert train.space.ids.tolist() == [1, 2]
    val = read_dataset(tmp_path / "data.yaml", "yolo", split="val")
    assert val.boxes.xywh.tolist() == [[0, 0, 100, 100]]
    assert val.boxes.score.tolist() == [0.75]
    assert len(read_dataset(tmp_path, "yolo")) == 4


def test_names_by_number_may_have_gaps(tmp_path):
    config = {
        "path": ".",
        "train": ["images/train"],
        "val": "images/train",
        "names": {0: "a", 7: "b"},
    }
    make(tmp_path, {"train/a": "7 0.5 0.5 0.1 0.1"}, config)
    dataset = read_dataset(tmp_path, "yolo")
    assert len(dataset) == 1
    assert dataset.space.names == ["a", "b"]
    assert dataset.boxes.category.tolist() == [1]


def test_layouts_of_roboflow_lists_and_darknet(tmp_path):
    robo = tmp_path / "robo"
    picture(robo / "valid/images/a.jpg")
    (robo / "valid/labels").mkdir()
    (robo / "valid/labels/a.txt").write_text("0 0.5 0.5 0.1 0.1")
    (robo / "data.yaml").write_text(
        "train: ../valid/images\nval: ../valid/images\nnames: [x]\nnc: 1"
    )
    assert len(read_dataset(robo, "yolo", split="val").boxes) == 1

    listed = tmp_path / "listed"
    make(listed, {"a": "0 0.5 0.5 0.1 0.1", "b": ""}, {"train": "train.txt", "names": ["x"]})
    (listed / "train.txt").write_text("./images/a.png\n")
    assert list(read_dataset(listed, "yolo").images.file_name) == ["images/a.png"]
    (listed / "train.txt").write_text("../robo/valid/images/a.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt, line 1: .*leads out"):
        read_dataset(listed, "yolo")

    bare = tmp_path / "bare"
    make(bare, {"a": "1 0.5 0.5 0.1 0.1"})
    (bare / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"no data\.yaml and no classes\.txt"):
        read_dataset(bare, "yolo")
    (bare / "classes.txt").write_text("cat\ndog\n")
    dataset = read_dataset(bare, "yolo")
    assert dataset.space.names[dataset.boxes.category[0]] == "dog"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of the 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5"),
        ("0 0.5 nan 0.1 0.1", "not finite"),
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.2 0.3 0.4", "8 columns"),
        ("0 0.5 0.5 x 0.1", "'x' is not a number"),
        ("0 0.5 0.5 -0.1 0.1", "negative size"),
        ("0 100 50 20 20", "not fractions"),
    ],
)
def test_bad_rows_are_named_and_can_be_skipped(tmp_path, row, expected):
    make(tmp_path, {"train/a": f"0 0.5 0.5 0.1 0.1\n{row}\n"})
    with pytest.raises(DataError, match=rf"a\.txt, line 2: .*{expected}"):
        read_dataset(tmp_path, "yolo", split="train")
    problems = Problems(skip_bad=True)
    dataset = read_dataset(tmp_path, "yolo", split="train", problems=problems)
    assert len(dataset.boxes) == 1
    assert len(problems.errors) == 1


def test_boxes_over_the_edge_are_clipped_but_rounding_is_not_counted(tmp_path):
    make(tmp_path, {"train/a": "0 0.0 0.5 0.2 0.2\n0 0.9 0.5 0.2000010 0.2\n0 1.5 0.5 0.1 0.1\n"})
    problems = Problems()
    dataset = read_dataset(tmp_path, "yolo", split="train", problems=problems)
    assert dataset.boxes.xywh[0] == pytest.approx([0, 40, 20, 20])
    assert dataset.boxes.xywh[1, 0] + dataset.boxes.xywh[1, 2] == pytest.approx(200, abs=1e-9)
    assert sorted(problems.counts.values()) == [1, 1]


def test_a_damaged_image_is_an_error(tmp_path):
    make(tmp_path, {"train/a": "", "train/b": ""})
    (tmp_path / "images/train/a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        read_dataset(tmp_path, "yolo", split="train")
    assert len(read_dataset(tmp_path, "yolo", split="train", problems=Problems(skip_bad=True))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [a", "not valid YAML"),
        ("- a", "not a data.yaml"),
        ("train: images", "no class names"),
        ("train: images\nnames: [a]\nnc: 2", "nc is 2 but there are 1"),
        ("train: images\nnames: [a, a]", "appears twice"),
        ("train: nowhere\nnames: [a]", "'nowhere', which does not exist"),
        ("names: [a]", "names no images"),
    ],
)
def test_bad_configurations(tmp_path, text, expected):
    picture(tmp_path / "images/a.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=expected) as caught:
        read_dataset(tmp_path, "yolo")
    assert "data.yaml" in str(caught.value)


fraction = st.floats(0, 1, allow_nan=False)
a_box = st.tuples(st.integers(0, 2), fraction, fraction, fraction, fraction, st.integers(0, 1))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(a_box, max_size=10), number=st.integers(0, 10**9))
def test_round_trip(tmp_path, rows, number):
    names = ["a.png", "s/b.png", "c.png"]
    for name in names:
        if not (tmp_path / name).is_file():
            picture(tmp_path / name)
    boxes = []
    for image, x1, y1, x2, y2, label in sorted(rows):
        (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
        if x2 - x1 > 1e-3 and y2 - y1 > 1e-3:
            boxes.append((image, x1 * 200, y1 * 100, (x2 - x1) * 200, (y2 - y1) * 100, label))
    rows = [(b[0], b[1:5], b[5]) for b in boxes]
    dataset = dataset_of("x", ["yes", "ö: b"], names, rows, size=(200, 100), root=tmp_path)
    out = tmp_path / "out" / str(number)
    assert yolo.write(dataset, out, split="val", copy_images="link")[0] == out / "data.yaml"
    back = read_dataset(out, "yolo", split="val")
    assert back.space.names == dataset.space.names
    order = [list(back.images.file_name).index(f"images/val/{n}") for n in names]
    back = back.subset(order)
    assert back.boxes.image.tolist() == dataset.boxes.image.tolist()
    assert back.boxes.category.tolist() == dataset.boxes.category.tolist()
    assert back.boxes.xywh == pytest.approx(dataset.boxes.xywh, abs=1e-6)


def two(tmp_path, names=("a.png", "b.png"), labels=("x", "y")):
    for name in names:
        picture(tmp_path / name)
    boxes = make_boxes([0, 0], [[0, 0, 20, 10], [4, 4, 8, 8]], [0, 1], ignore=[False, True])
    return dataset_of("x", labels, names, boxes, size=(200, 100), root=tmp_path)


def test_ignored_boxes_are_left_out_and_counted(tmp_path):
    problems = Problems()
    files = yolo.write(two(tmp_path), tmp_path / "o", problems=problems)
    assert files[1].read_text() == "0 0.05 0.05 0.1 0.1\n"
    assert list(problems.counts.values()) == [1]


def test_splits_share_one_folder_but_other_classes_do_not(tmp_path):
    yolo.write(two(tmp_path), tmp_path / "o", split="train")
    yolo.write(two(tmp_path), tmp_path / "o", split="val")
    config = yaml.safe_load((tmp_path / "o/data.yaml").read_text())
    assert config == {
        "train": "images/train", "val": "images/val", "nc": 2, "names": {0: "x", 1: "y"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="other classes"):
        yolo.write(two(tmp_path, labels=("x", "z")), tmp_path / "o", split="test")


def test_images_that_would_share_a_label_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="share the label file"):
        yolo.write(two(tmp_path, names=("a.png", "a.jpg")), tmp_path / "o")
