"""What rows of YOLO label files mean, decided for all files together."""

from pathlib import Path

import numpy as np
import pytest

from relabel.datasets.formats.registry import read_dataset
from relabel.errors import DataError, Problems
from tests.builders.datasets import write_image

SQUARE = "0 0.5 0.5 0.2 0.2"  # 40, 40, 20, 20 of 100 x 100


def make(root: Path, *labels: str | bytes, config: str = "") -> Path:
    """Images 0.png, 1.png, ... of 100 x 100 with these label files; classes a, b, c."""
    for number, text in enumerate(labels):
        write_image(root / f"images/{number}.png", 100, 100)
        file = root / f"labels/{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    (root / "data.yaml").write_text(f"train: images\nnames: [a, b, c]\n{config}")
    return root


def boxes(root: Path, problems: Problems | None = None) -> list[list[float]]:
    read = read_dataset(root, "yolo", problems=problems)
    return np.round(read.boxes.xywh, 6).tolist()


@pytest.mark.parametrize(
    ("config", "row"),
    [
        ("kpt_shape: [4, 2]", f"{SQUARE} 0.45 0.45 0.55 0.45 0.55 0.55 0.45 0.55"),
        ("kpt_shape: [4, 3]", f"{SQUARE} 0.45 0.45 2 0.55 0.45 2 0 0 0 0.45 0.55 1"),
        ("kpt_shape: [1, 2]", f"{SQUARE} 0.1 0.9"),
        ("kpt_shape:\n- 4\n- 2.0", SQUARE),
        ("kpt_shape: [2, 2]", f"{SQUARE} 0.4 0.4 0.6 0.6 0.9"),
        ("kpt_shape: [2, 2]", f"{SQUARE} 0.4 0.4 0.6 0.6 0.9 17"),
    ],
)
def test_keypoints_are_no_corners(tmp_path, config, row):
    assert boxes(make(tmp_path, row, config=config)) == [[40, 40, 20, 20]]


def test_rows_that_do_not_fit_kpt_shape(tmp_path):
    make(tmp_path, f"{SQUARE} 0.4 0.4 0.6 0.6 0.5 0.5", config="kpt_shape: [4, 2]")
    with pytest.raises(DataError, match=r"0\.txt, line 1: has 11 columns; .*\[4, 2\].* has 13"):
        boxes(tmp_path)
    for bad in ("17", "[17, 4]", "[0, 3]", "[x, 3]", "[3]", "[999999999, 3]"):
        make(tmp_path, SQUARE, config=f"kpt_shape: {bad}")
        with pytest.raises(DataError, match=r"data\.yaml: kpt_shape"):
            boxes(tmp_path)


def test_keypoints_without_kpt_shape_are_not_taken_for_polygons(tmp_path):
    visible = f"{SQUARE} 0.45 0.45 1 0.55 0.45 1 0 0 0 0.45 0.55 1"
    with pytest.raises(DataError, match=r"17 columns.*4 keypoints.*kpt_shape: \[4, 3\]"):
        boxes(make(tmp_path / "xyv", visible))
    plain = f"{SQUARE} 0.45 0.45 0.55 0.45 0.55 0.55 0.45 0.55"
    with pytest.raises(DataError, match=r"13 columns.*4 keypoints.*kpt_shape: \[4, 2\]"):
        boxes(make(tmp_path / "xy", f"{plain}\n{plain}", plain))


def test_polygons_and_oriented_boxes_count_by_their_bounds(tmp_path):
    oriented = "1 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5"
    triangle = "0 0.1 0.1 0.3 0.1 0.2 0.4"
    many = "2 " + " ".join(f"{0.5 + 0.25 * v:.6f}" for a in range(9) for v in _corner(a))
    assert boxes(make(tmp_path, f"{SQUARE}\n{oriented}", f"{triangle}\n{many}")) == [
        [40, 40, 20, 20],
        [20, 20, 60, 60],
        [10, 10, 20, 30],
        [25, 25, 50, 50],
    ]


def _corner(step: int) -> tuple[float, float]:
    """Eight corners and the first again."""
    return [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0)][step]


def test_a_triangle_that_ends_on_the_edge_beside_longer_polygons(tmp_path):
    # Its last number could be a track; the other polygon says that it is none.
    labels = "0 0.5 0.5 0.2 0.2 0.9 1\n0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2"
    assert boxes(make(tmp_path, labels)) == [[20, 20, 70, 80], [10, 10, 10, 10]]


def test_seven_columns_are_tracks_where_the_files_say_so(tmp_path):
    problems = Problems()
    # The first file alone might be triangles.
    make(tmp_path, f"{SQUARE} 0.93 1\n{SQUARE} 0.5 0", f"{SQUARE} 0.75 12")
    read = read_dataset(tmp_path, "yolo", problems=problems)
    assert np.round(read.boxes.xywh, 6).tolist() == [[40, 40, 20, 20]] * 3
    assert read.boxes.score == pytest.approx([0.93, 0.5, 0.75])
    assert problems.summary() == [
        "3 boxes with a track number in the last column, which is not kept"
    ]


def test_seven_columns_beside_six_are_tracks(tmp_path):
    # A tracker gives no number in its first frames.
    assert boxes(make(tmp_path, f"{SQUARE} 0.8", f"{SQUARE} 0.93 1")) == [[40, 40, 20, 20]] * 2


def test_seven_columns_that_may_be_either_are_an_error(tmp_path):
    make(tmp_path, SQUARE, f"{SQUARE}\n{SQUARE} 0.93 1")
    with pytest.raises(
        DataError, match=r"1\.txt, line 2: has 7 columns: .*track.*triangle.*repeat"
    ):
        boxes(tmp_path)
    problems = Problems(skip_bad=True)
    assert boxes(tmp_path, problems) == [[40, 40, 20, 20]] * 2
    assert len(problems.errors) == 1 and not problems.summary()


def test_a_track_among_triangles_is_an_error(tmp_path):
    make(tmp_path, f"0 0.1 0.1 0.3 0.1 0.2 0.4\n{SQUARE} 0.9 2")
    with pytest.raises(DataError, match=r"line 2: has coordinates that are not fractions"):
        boxes(tmp_path)


def test_the_sixth_column_is_a_confidence_or_a_track(tmp_path):
    scores = read_dataset(make(tmp_path / "a", f"{SQUARE} 0.5\n{SQUARE} 1"), "yolo").boxes.score
    assert scores.tolist() == [0.5, 1]
    problems = Problems()
    make(tmp_path / "b", f"{SQUARE} 1\n{SQUARE} 25")
    scores = read_dataset(tmp_path / "b", "yolo", problems=problems).boxes.score
    assert np.isnan(scores).all() and "track number" in problems.summary()[0]
    with pytest.raises(DataError, match=r"line 2: has a score of 1\.5, outside 0 to 1"):
        boxes(make(tmp_path / "c", f"{SQUARE} 0.5\n{SQUARE} 1.5"))


@pytest.mark.parametrize(
    "text",
    [
        "0.0 .5 5e-1 +0.2 0.2",
        f"\ufeff{SQUARE}",
        "\t0\t0.5  0.5 0.2\t0.2 \t\r\n\r\n  \r\n",
        f"\r{SQUARE}\r",
        "0\u00a00.5 0.5 0.2 0.2",
        f"\n\n{SQUARE}\x0c",
    ],
)
def test_ways_to_write_a_row(tmp_path, text):
    assert boxes(make(tmp_path, SQUARE, text)) == [[40, 40, 20, 20]] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{SQUARE}\n# a note", "line 2: '#' is not a number"),
        (f"{SQUARE}\n0 0.5 0.5 0.2 0_1", "line 2: '0_1' is not a number"),
        (f"\n{SQUARE},", "line 2: '0.2,' is not a number"),
        (f"{SQUARE}\n\n0 inf 0.5 0.2 0.2", "line 3: has a number that is not finite"),
        ("0 0.5 0.5 0.2 1e999", "line 1: has a number that is not finite"),
        (f"{SQUARE} nan", "line 1: has a number that is not finite"),
        ("0 0.1 0.1 0.3 0.1 0.2 nan", "line 1: has a number that is not finite"),
        ("nan 0.5 0.5 0.2 0.2", "line 1: has a number that is not finite"),
        ("1e300 0.5 0.5 0.2 0.2", r"line 1: class 1e\+300 is not one of the 3 classes"),
        ("3 0.5 0.5 0.2 0.2", "line 1: class 3 is not one"),
        ("0", "line 1: has 1 columns"),
        (f"{SQUARE} 0.1 0.2 0.3", r"line 1: has 8 columns.*kpt_shape"),
        ("0 .1 .1 .3 .1 .2 .2 .1 2", "line 1: has coordinates that are not fractions"),
        (SQUARE.encode() + b"\n" * 64 + b"\0", "NUL byte"),
        (SQUARE.encode("utf-16"), "UTF-16"),
        (b"0 0.5 0.5 0.2 0.2 \xe9", "not UTF-8 text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, text, expected):
    make(tmp_path, SQUARE, text, SQUARE)
    with pytest.raises(DataError, match=rf"1\.txt.*{expected}"):
        boxes(tmp_path)
    problems = Problems(skip_bad=True)
    assert boxes(tmp_path, problems)[-1] == [40, 40, 20, 20]
    assert len(problems.errors) == 1


def test_an_image_whose_labels_cannot_be_read_is_no_background(tmp_path):
    make(tmp_path, SQUARE, b"\xff\xfe0", "")
    problems = Problems(skip_bad=True)
    read = read_dataset(tmp_path, "yolo", problems=problems)
    assert list(read.images.file_name) == ["images/0.png", "images/2.png"]


def test_many_files_read_as_one_by_one(tmp_path):
    """Blocks of files keep rows, lines and images apart."""
    rng = np.random.default_rng(0)
    texts, expected = [], []
    for number in range(600):
        rows = rng.integers(0, 4)
        points = rng.uniform(0.3, 0.6, (rows, 4)).round(4)
        texts.append("\n" * (number % 3) + "\n".join("1 " + " ".join(map(str, p)) for p in points))
        expected += [[number, *p] for p in points]
    make(tmp_path, *texts)
    read = read_dataset(tmp_path, "yolo")
    order = np.array([int(Path(n).stem) for n in read.images.file_name])
    found = np.concatenate([order[read.boxes.image][:, None], read.boxes.xywh], axis=1)
    found = found[np.argsort(found[:, 0], kind="stable")]
    wanted = np.array(expected)
    wanted[:, 1:3] -= wanted[:, 3:] / 2
    assert found == pytest.approx(wanted * [1, 100, 100, 100, 100])
    (tmp_path / "labels/599.txt").write_text(f"{SQUARE}\n\n9 0.5 0.5 0.2 0.2")
    with pytest.raises(DataError, match=r"599\.txt, line 3: class 9"):
        boxes(tmp_path)
