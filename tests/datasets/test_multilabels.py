"""The released text format of multi-labels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.multilabels import LabelTable, read_tsv, tsv_writer
from relabel.errors import DataError

NAMES = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\0\ufeff"),
    min_size=1,
    max_size=9,
).filter(lambda name: name.lower() not in ("filename", "file_name", "file", "image", "name"))
LABELS = st.dictionaries(st.integers(0, MOST_CLASSES - 1), st.floats(0, 1, width=32), max_size=5)
IMAGES = st.lists(
    st.tuples(NAMES, st.integers(-1, MOST_CLASSES - 1), LABELS),
    unique_by=lambda x: x[0],
    max_size=6,
)


def make(images: list[tuple[str, int, dict[int, float]]]) -> LabelTable:
    ids = np.array([i for _, _, labels in images for i in labels], np.int32)
    probs = np.array([p for _, _, labels in images for p in labels.values()], np.float32)
    offsets = np.cumsum([0, *(len(labels) for _, _, labels in images)])
    return LabelTable(
        [name for name, _, _ in images],
        np.array([gt for _, gt, _ in images], np.int32),
        csr_array((probs, ids, offsets), shape=(len(images), int(ids.max(initial=-1)) + 1)),
    )


def write_tsv(path: Path, table: LabelTable) -> None:
    with tsv_writer(path) as file:
        file.write(table.file_names, table.gt, table.labels)


def read_text(tmp_path: Path, text: str | bytes, num_classes: int | None = None) -> LabelTable:
    path = tmp_path / "labels.tsv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_tsv(path, num_classes)


@settings(max_examples=40)  # each syncs two files to the disk
@given(IMAGES)
def test_round_trip(images: list[tuple[str, int, dict[int, float]]]) -> None:
    labels = make(images)
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one.tsv"), Path(folder, "two.tsv")
        write_tsv(one, labels)
        again = read_tsv(one)
        write_tsv(two, again)
        assert one.read_bytes() == two.read_bytes()
    assert again.file_names == labels.file_names
    pairs = [(again.gt, labels.gt)]
    pairs += [(getattr(again.labels, n), getattr(labels.labels, n)) for n in ("indptr", "indices")]
    for found, wanted in pairs:
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted)
    assert again.labels.shape == labels.labels.shape
    assert again.labels.dtype == np.float32
    # Four decimals: half of the last one, and the rounding of float32.
    assert np.all(np.abs(again.labels.data - labels.labels.data) <= 0.5e-4 + 1e-7)


def test_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out/labels.tsv"
    labels = make([("a/b c.JPEG", 7, {7: 1, 12: 0.123456}), ("ö.png", -1, {}), ("x", 0, {3: 5e-5})])
    with tsv_writer(path) as file:
        for part in (slice(0, 1), slice(1, 3)):  # as shards come
            file.write(labels.file_names[part], labels.gt[part], labels.labels[part])
    assert path.read_text(encoding="utf-8") == (
        "a/b c.JPEG\t7\t7,12\t1.0000,0.1235\nö.png\t\t\t\nx\t0\t3\t0.0000\n"
    ).replace("0.0000\n", f"{np.float32(5e-5):.4f}\n")


def test_nothing_is_left_of_a_file_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"), tsv_writer(path) as file:
        file.write(["a"], np.array([0]), csr_array(([np.nan], [1], [0, 1]), shape=(1, 2)))
    with pytest.raises(DataError, match="has a tab or a line break"):
        write_tsv(path, make([("a\tb", 0, {})]))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tsv"]


def test_what_others_write(tmp_path: Path) -> None:
    labels = read_text(
        tmp_path,
        "\ufefffilename\tgt\tlabels\tprobs\r\na.JPEG\t-1\t5,3\t0.5,1\r\nb\t4\r\nc\t\t\t\r\nd\t2\t\r\n\r\n",
    )
    assert labels.file_names == ["a.JPEG", "b", "c", "d"]
    assert labels.gt.tolist() == [-1, 4, -1, 2]
    assert np.diff(labels.labels.indptr).tolist() == [2, 0, 0, 0]
    assert labels.labels.shape == (4, 6)
    first = labels.labels[[0]]
    assert (first.indices.tolist(), first.data.tolist()) == ([5, 3], [0.5, 1.0])
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
        ("x\t1\t2,2\t0.5,0.5", "class 2 is listed twice"),
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
    with pytest.raises(DataError, match="'a' is listed twice"):
        read_text(tmp_path, "a\t0\nb\t0\na\t1\n")
    with pytest.raises(DataError, match="line 1: is UTF-16 text or binary, not UTF-8"):
        read_text(tmp_path, b"\xff\xfe\t1\n")
    with pytest.raises(DataError, match="does not exist"):
        read_tsv(tmp_path / "none.tsv")


def test_classes_that_no_image_has(tmp_path: Path) -> None:
    text = "a\t0\t1,0\t0.5,0.25\nb\t0\nc\t0\t2\t1\n"
    wide = read_text(tmp_path, text, 4).labels.toarray()
    assert wide.tolist() == [[0.25, 0.5, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert read_text(tmp_path, text).labels.shape == (3, 3)
