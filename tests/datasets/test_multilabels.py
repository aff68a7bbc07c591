"""The released text format of multi-labels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel.datasets.multilabels import MultiLabels, read_tsv, tsv_writer
from relabel.errors import DataError

NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\0\ufeff"),
    min_size=1,
    max_size=9,
).filter(lambda name: name.lower() not in ("filename", "file_name", "file", "image", "name"))
LABELS = st.dictionaries(st.integers(0, 2**31 - 1), st.floats(0, 1, width=32), max_size=5)
IMAGES = st.lists(
    st.tuples(NAMES, st.integers(-1, 2**31 - 1), LABELS), unique_by=lambda x: x[0], max_size=6
)


def make(images: list[tuple[str, int, dict[int, float]]]) -> MultiLabels:
    return MultiLabels(
        [name for name, _, _ in images],
        np.array([gt for _, gt, _ in images], np.int32),
        np.cumsum([0, *(len(labels) for _, _, labels in images)]).astype(np.int64),
        np.array([i for _, _, labels in images for i in labels], np.int32),
        np.array([p for _, _, labels in images for p in labels.values()], np.float32),
    )


def write(path: Path, labels: MultiLabels) -> None:
    with tsv_writer(path) as file:
        file.write(labels.file_names, labels.gt, labels.offsets, labels.ids, labels.probs)


def read_text(tmp_path: Path, text: str | bytes, num_classes: int | None = None) -> MultiLabels:
    path = tmp_path / "labels.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_tsv(path, num_classes)


@settings(max_examples=40)  # each syncs two files to the disk
@given(IMAGES)
def test_round_trip(images: list[tuple[str, int, dict[int, float]]]) -> None:
    labels = make(images)
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one.tsv"), Path(folder, "two.tsv")
        write(one, labels)
        again = read_tsv(one)
        write(two, again)
        assert one.read_bytes() == two.read_bytes()
    assert again.file_names == labels.file_names
    for name in ("gt", "offsets", "ids"):
        found, wanted = getattr(again, name), getattr(labels, name)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted), name
    assert again.probs.dtype == np.float32
    # Four decimals: half of the last one, and the rounding of float32.
    assert np.all(np.abs(again.probs - labels.probs) <= 0.5e-4 + 1e-7)


def test_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out/labels.tsv"
    labels = make([("a/b c.JPEG", 7, {7: 1, 12: 0.123456}), ("ö.png", -1, {}), ("x", 0, {3: 5e-5})])
    with tsv_writer(path) as file:
        for part in (slice(0, 1), slice(1, 3)):  # as shards come
            offsets = labels.offsets[part.start : part.stop + 1]
            inner = slice(int(offsets[0]), int(offsets[-1]))
            file.write(
                labels.file_names[part],
                labels.gt[part],
                offsets - offsets[0],
                labels.ids[inner],
                labels.probs[inner],
            )
    assert path.read_text(encoding="utf-8") == (
        "a/b c.JPEG\t7\t7,12\t1.0000,0.1235\nö.png\t\t\t\nx\t0\t3\t0.0000\n"
    ).replace("0.0000\n", f"{np.float32(5e-5):.4f}\n")


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"), tsv_writer(path) as file:
        file.write(["a"], np.array([0]), np.array([0, 1]), np.array([1]), np.array([np.nan]))
    with pytest.raises(DataError, match="has a tab or a line break"):
        write(path, make([("a\tb", 0, {})]))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tsv"]


def test_what_others_write(tmp_path: Path) -> None:
    labels = read_text(
        tmp_path,
        "\ufefffilename\tgt\tlabels\tprobs\r\na.JPEG\t-1\t5,3\t0.5,1\r\nb\t4\r\nc\t\t\t\r\nd\t2\t\r\n\r\n",
    )
    assert labels.file_names == ["a.JPEG", "b", "c", "d"]
    assert labels.gt.tolist() == [-1, 4, -1, 2]
    assert labels.counts.tolist() == [2, 0, 0, 0]
    ids, probs = labels.labels(0)
    assert (ids.tolist(), probs.tolist()) == ([5, 3], [0.5, 1.0])
    assert len(read_text(tmp_path, "")) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x\t1\t2\t0.5\t9", "has 5 columns, not 4"),
        ("x", "has 1 columns, not 4"),
        ("x\t1\t2", "has 3 columns, not 4"),
        ("\t1\t2\t0.5", "has no file name"),
        ("x\tdog\t2\t0.5", "'dog' is not a class index"),
        ("x\t1\t2,\t0.5,0.5", "'' is not a class index"),
        ("x\t1\t2,3\t0.5", "has 2 classes, but 1 probabilities"),
        ("x\t1\t2,2\t0.5,0.5", "class 2 is there twice"),
        ("x\t1\t-2\t0.5", "class -2 is negative"),
        ("x\t-2\t2\t0.5", "class -2 is negative"),
        ("x\t1\t2\t1.5", r"'1\.5' is not a probability"),
        ("x\t1\t2\tnan", "'nan' is not a probability"),
        ("x\t1\t10\t0.5", r"class 10 is outside 0\.\.9"),
        ("x\t10\t\t", r"class 10 is outside 0\.\.9"),
        (f"x\t{2**31}\t\t", "line 2: "),
    ],
)
def test_errors_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    classes = 10 if "10" in line else None
    with pytest.raises(DataError, match=message) as caught:
        read_text(tmp_path, f"a\t0\t1\t0.5\n{line}\nb\t0\t1\t0.5\n", classes)
    assert caught.value.record == "line 2"
    assert str(tmp_path / "labels.tsv") in str(caught.value)


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a' is there twice"):
        read_text(tmp_path, "a\t0\nb\t0\na\t1\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path, b"\xff\xfe\t1\n")
    with pytest.raises(DataError, match="does not exist"):
        read_tsv(tmp_path / "none.tsv")


def test_dense() -> None:
    labels = make([("a", 0, {1: 0.5, 0: 0.25}), ("b", 0, {}), ("c", 0, {2: 1.0})])
    assert labels.dense(3).tolist() == [[0.25, 0.5, 0], [0, 0, 0], [0, 0, 1]]
    assert labels.dense(4, np.array([2, 0])).tolist() == [[0, 0, 1, 0], [0.25, 0.5, 0, 0]]
    assert labels.dense(2, slice(0, 2)).tolist() == [[0.25, 0.5], [0, 0]]
    with pytest.raises(DataError, match=r"c: class 2 is outside 0\.\.1"):
        labels.dense(2)
