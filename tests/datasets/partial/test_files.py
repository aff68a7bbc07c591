"""Label files: what is written is read again, and what is damaged is told in one line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.datasets.classes import MOST_CLASSES
from relabel.datasets.partial import as_csv
from relabel.datasets.partial.files import partial_writer, read_partial, write_partial
from relabel.errors import ConfigError, DataError

from .test_labels import made

FORMATS = ("csv", "json", "parquet")
VALUES = [[1, -1, 0], [0, 0, 0], [-1, -1, -1], [1, 1, 1]]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_is_read_again(tmp_path, kind):
    names = ["a b.jpg", "été/1,2.jpg", "c.png", 'd"quoted".jpg']
    labels = made(VALUES, file_names=names, classes=("cat", "hot dog, bun", 'so "called"'))
    write_partial(labels, tmp_path / f"labels.{kind}")
    back = read_partial(tmp_path / f"labels.{kind}", root=tmp_path)
    assert back.file_names == names
    assert back.classes == labels.classes
    assert back.dense().tolist() == VALUES
    assert back.name == "labels"
    assert back.location(2) == str(tmp_path / "c.png")


@pytest.mark.parametrize("kind", FORMATS)
def test_no_image_one_class_and_everything_or_nothing_known(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    for values in (np.zeros((0, 2)), [[1]], [[0], [0]], [[1], [-1]]):
        labels = made(np.asarray(values))
        write_partial(labels, path)
        assert (read_partial(path).dense() == labels.dense()).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_many_images_in_blocks(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("relabel.datasets.partial.labels._BLOCK_CELLS", 64)
    monkeypatch.setattr(as_csv, "_BLOCK_BYTES", 256)
    values = np.random.default_rng(0).integers(-1, 2, (300, 9))
    path = tmp_path / f"x.{kind}"
    write_partial(made(values), path)
    assert (read_partial(path).dense() == values).all()


def test_parquet_has_the_promised_columns_and_completed_ones(tmp_path):
    path = tmp_path / "labels.parquet"
    labels = made([[1, -1], [0, 1]], classes=("cat", "dog"))
    scores = np.array([[0.75, 0.25], [0.5, 1]], np.float32)
    with partial_writer(path, labels.classes, sources=("known", "ist")) as writer:
        writer.write(labels.file_names, labels.known, scores, np.array([[0, 0], [1, 0]], np.uint8))
    table = pq.read_table(path)
    assert table.to_pydict() == {
        "file_name": ["0.jpg", "1.jpg"],
        "present": [[0], [1]],
        "absent": [[1], []],
        "scores": [[0.75, 0.25], [0.5, 1.0]],
        "source": [["known", "known"], ["ist", "known"]],
    }
    assert json.loads(table.schema.metadata[b"class_names"]) == ["cat", "dog"]
    assert read_partial(path).dense().tolist() == [[1, -1], [0, 1]]


def test_completed_json_and_csv(tmp_path):
    labels, scores = made([[1, -1], [0, 1]]), np.array([[0.75, 0.25], [0.5, 1]])
    for kind in ("json", "csv"):
        with partial_writer(tmp_path / f"x.{kind}", labels.classes, sources=["known"]) as writer:
            writer.write(labels.file_names, labels.known, scores, np.zeros((2, 2), np.uint8))
        assert (read_partial(tmp_path / f"x.{kind}").dense() == labels.dense()).all()
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["images"][0] == {
        "file_name": "0.jpg", "present": [0], "absent": [1], "scores": [0.75, 0.25],
        "source": [0, 0],
    }  # fmt: skip


def test_csv_as_pandas_and_as_a_spreadsheet_write_it(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("\ufeffPath,cat,dog\r\na.jpg,1.0,-1.0\r\nb.jpg,,+1\r\n".encode())
    labels = read_partial(path)
    assert labels.classes == ("cat", "dog")
    assert labels.dense().tolist() == [[1, -1], [0, 1]]


BAD_CSV = {
    "file_name,cat,cat\na.jpg,1,0\n": r"class 'cat' is there twice",
    "a.jpg,1,0\nb.jpg,0,1\n": r"line 1: has no header",
    "file_name\na.jpg\n": r"line 1: the header has 1 columns",
    "file_name,cat,\na.jpg,1,1\n": r"line 1: column 3 of the header has no name",
    "file_name,cat\na.jpg,1\nb.jpg,2\n": r"image 'b.jpg': class 'cat' is 2, not -1, 0 or 1",
    "file_name,cat\na.jpg,nan\n": r"image 'a.jpg': class 'cat' is nan",
    "file_name,cat\na.jpg,1\nb.jpg,yes\n": r"line 3: .*'yes'.*class 'cat'",
    "file_name,cat\na.jpg,1\nb.jpg,1,0\n": r"line 3: expected 2 columns, got 3",
    "file_name,cat\n,1\n": r"image 1: has no file name",
    "file_name,cat\na.jpg,1\na.jpg,1\n": r"image 'a.jpg' is there twice",
    "file_name,cat\na.jpg,1\n./a.jpg,1\n": r"image 'a.jpg' is there twice",
    "file_name,cat\n../a.jpg,1\n": r"'../a.jpg' leads out",
    "": r"line 1: the header has 0 columns",
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_damaged_csv_is_one_line(tmp_path, text):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=BAD_CSV[text]) as caught:
        read_partial(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


BAD_JSON = {
    '{"classes": ["a", "a"], "images": []}': "class 'a' is there twice",
    '{"classes": [], "images": []}': "has no class",
    '{"classes": ["a"], "images": [{"present": [0]}]}': "image 1: .*file_name",
    '{"classes": ["a"], "images": [{"file_name": "x"}, {"file_name": "y", "present": [1]}]}': (
        r"image 'y': class 1 is outside 0..0"
    ),
    '{"classes": ["a"], "images": [{"file_name": "x", "present": [0, 0]}]}': "listed twice",
    '{"classes": ["a"], "images": [{"file_name": "x", "present": [0], "absent": [0]}]}': (
        "both present and absent"
    ),
    '{"classes": ["a"], "images": [{"file_name": "x", "present": ["0"]}]}': "image 1: ",
    '{"classes": ["a"], "images": [': "cut off",
    '{"x.jpg": [0], "x.jpg": [1]}': "key 'x.jpg' appears twice",
    '{"x.jpg": [1000000]}': f"outside 0..{MOST_CLASSES - 1}",
    '{"x.jpg": [99999999999999999999]}': "image 'x.jpg'|64 bits",
    '{"x.jpg": {"a": 1}}': "expected",
    "[1, 2]": "no JSON object",
}


@pytest.mark.parametrize("text", BAD_JSON)
def test_damaged_json_is_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=BAD_JSON[text]):
        read_partial(path)


def test_json_that_is_no_text(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"classes": ["a"], "images": [{"file_name": "\xff"}]}')
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_partial(path)


def test_an_object_of_file_names_says_all_that_is_there(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a.jpg": [2], "b.jpg": []}')
    labels = read_partial(path)
    assert labels.classes == ("0", "1", "2")
    assert labels.dense().tolist() == [[-1, -1, 1], [-1, -1, -1]]


def parquet(path, names=None, **columns):
    table = pa.table(columns)
    if names is not None:
        table = table.replace_schema_metadata({"class_names": json.dumps(names)})
    pq.write_table(table, path)


def test_damaged_parquet_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    good = {"file_name": ["a", "b"], "present": [[0], [1]], "absent": [[1], [0]]}
    cases = [
        ({"present": [[0], [7]]}, ["x", "y"], r"image 'b': class 7 is outside 0..1"),
        ({"present": [[0], [-1]]}, None, r"class -1 is outside"),
        ({"present": [[0], [2**62]]}, None, rf"outside 0..{MOST_CLASSES - 1}"),
        ({"present": [[1], [1]]}, None, r"image 'a': class 1 is both present and absent"),
        ({"present": [[0, 0], [1]]}, None, r"image 'a': class 0 is listed twice"),
        ({"present": [None, [1]]}, None, r"image 'a'|missing value"),
        ({"present": [0, 1]}, None, "holds int64, not class indices"),
        ({"present": [["x"], []]}, None, "not class indices"),
        ({"file_name": [None, "b"]}, None, "without a file name"),
        ({"file_name": ["a", "a"]}, None, "image 'a' is there twice"),
        ({}, ["x", "x"], "class 'x' is there twice"),
        ({}, "x", "no list of names"),
    ]
    for change, names, message in cases:
        parquet(path, names, **{**good, **change})
        with pytest.raises(DataError, match=message):
            read_partial(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="readable Parquet"):
        read_partial(path)


def test_parquet_of_other_tools_needs_no_class_names(tmp_path):
    path = tmp_path / "x.parquet"
    parquet(path, filename=["a", "b"], present=[[2], []], absent=[[0], []])
    assert read_partial(path).dense().tolist() == [[-1, 0, 1], [0, 0, 0]]
    assert read_partial(path, classes=["x", "y", "z"]).classes == ("x", "y", "z")


def test_a_tsv_tells_what_is_sure(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a.jpg\t3\t0,2\t0.9,0.3\nb.jpg\t\t\t\nc.jpg\t\t1\t0.5\n")
    labels = read_partial(path)
    assert labels.dense().tolist() == [[1, -1, 0, 1], [0, 0, 0, 0], [-1, 1, -1, -1]]
    named = read_partial(path, classes=["p", "q", "r", "s", "t"])
    assert named.dense(slice(0, 1)).tolist() == [[1, -1, 0, 1, -1]]


@pytest.mark.parametrize("kind", FORMATS)
def test_classes_called_by_numbers_are_read_again(tmp_path, kind):
    write_partial(made([[1, -1]], classes=("0", "1")), tmp_path / f"few.{kind}")
    back = read_partial(tmp_path / f"few.{kind}")
    assert back.classes == ("0", "1") and back.dense().tolist() == [[1, -1]]


def test_names_for_classes_that_have_their_own_or_too_few(tmp_path):
    path = tmp_path / "x.csv"
    write_partial(made([[1, -1]]), path)
    with pytest.raises(ConfigError, match="names its own classes"):
        read_partial(path, classes=["a", "b"])
    other = tmp_path / "x.json"
    other.write_text('{"a.jpg": [2]}')
    with pytest.raises(DataError, match="3 classes, and 2 names"):
        read_partial(other, classes=["a", "b"])


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_would_not_be_read_again_are_refused_and_leave_no_file(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    for change in ({"file_names": ["a\nb"]}, {"file_names": [""]}, {"classes": ("a\nb",)}):
        with pytest.raises(DataError, match=r"line break|empty"):
            write_partial(made([[1]], **change), path)
    assert not list(tmp_path.iterdir())


def test_a_tsv_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="unknown"):
        write_partial(made([[1]]), tmp_path / "x.tsv")


def test_a_file_without_a_known_suffix_goes_by_its_content(tmp_path):
    for kind in FORMATS:
        write_partial(made(VALUES), tmp_path / f"x.{kind}")
        plain = (tmp_path / f"x.{kind}").rename(tmp_path / "plain")
        assert read_partial(plain).dense().tolist() == VALUES
    (tmp_path / "plain").write_text("nothing")
    with pytest.raises(DataError, match="no label file"):
        read_partial(tmp_path / "plain")


def test_a_tsv_with_one_great_index_takes_no_memory(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\t99999\t\t\n" + "".join(f"{i}\t1\t\t\n" for i in range(30_000)))
    with pytest.raises(DataError, match="30,001 images times 100,000 classes"):
        read_partial(path)


def test_a_parquet_that_unpacks_to_more_than_there_is_room_for(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    monkeypatch.setattr("relabel.datasets.partial.labels._ALWAYS_FINE", 1000)
    monkeypatch.setattr("relabel.datasets.partial.labels._MOST_ENTRIES", 200)
    write_partial(made(np.ones((10, 10), int)), path)
    assert len(read_partial(path)) == 10
    write_partial(made(np.ones((21, 10), int)), path)
    with pytest.raises(DataError, match="21 images times 10 classes"):
        read_partial(path)
