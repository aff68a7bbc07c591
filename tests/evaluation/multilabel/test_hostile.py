"""Numbers and files that no classifier writes: refused before they cost memory or time."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.errors import ConfigError, DataError
from relabel.evaluation.multilabel import predictions
from relabel.evaluation.multilabel.evaluate import evaluate_multilabel
from relabel.evaluation.multilabel.predictions import read_predictions
from relabel.evaluation.multilabel.truths import read_truths

NAME = "ILSVRC2012_val_00000001.JPEG"
HUGE = [2147483646, 10**9, 10**18, 2**63, 10**300]


def put(file: Path, content: object) -> Path:
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_text(text, encoding="utf-8")
    return file


def table(file: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return put(tmp_path / "good.tsv", f"{NAME}\t1\t1,2\t0.9,0.7\n")


@pytest.mark.parametrize("label", HUGE)
def test_class_indices(tmp_path: Path, good: Path, label: int):
    truths = [
        put(tmp_path / "real.json", [[label]]),
        put(tmp_path / "inv2.json", {NAME: [label]}),
        put(tmp_path / "text.json", {NAME: [str(label)]}),
        put(tmp_path / "truth.tsv", f"{NAME}\t{label}\n"),
    ]
    scores = [
        put(tmp_path / "own.tsv", f"{NAME}\t{label}\n"),
        put(tmp_path / "listed.tsv", f"{NAME}\t1\t1,{label}\t0.5,0.4\n"),
    ]
    if label < 2**64:
        kind = pa.uint64() if label >= 2**63 else pa.int64()
        ids = pa.array([[1, label]], pa.list_(kind))
        scores.append(table(tmp_path / "p.parquet", filename=[NAME], ids=ids, scores=[[0.5, 0.4]]))
    tracemalloc.start()
    for file in truths:
        with pytest.raises(DataError) as caught:
            evaluate_multilabel(file, good)
        assert caught.value.file == str(file) and len(str(caught.value)) < 400
    for file in scores:
        with pytest.raises(DataError) as caught:
            evaluate_multilabel(good, file)
        assert caught.value.file == str(file) and len(str(caught.value)) < 400
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    with pytest.raises(ConfigError, match="at most 100000"):
        evaluate_multilabel(good, good, classes=100_001)


@pytest.mark.parametrize("text", ["9" * 5000, "1_0", "٣", "", "0x1", "1.5"])
def test_class_indices_as_text(tmp_path: Path, text: str):
    with pytest.raises(DataError, match=rf"image '{NAME}'"):
        read_truths(put(tmp_path / "a.json", {NAME: [text]}))


def test_an_image_twice_is_an_error(tmp_path: Path):
    file = put(tmp_path / "a.json", f'{{"{NAME}": ["1"], "{NAME}": ["2"]}}')
    with pytest.raises(DataError, match=f"the key '{NAME}' appears twice"):
        read_truths(file)


def test_constant_scores_of_few_bytes(tmp_path: Path, monkeypatch):
    row = pa.array([[0.0] * 1000] * 300, pa.list_(pa.float32()))
    file = table(tmp_path / "p.parquet", filename=[str(i) for i in range(300)], scores=row)
    assert read_predictions(file).scores.num_classes == 1000
    monkeypatch.setattr(predictions, "_ALWAYS_FINE", 1 << 20)
    with pytest.raises(DataError, match="has 300 times 1,000 scores, 1,200,000 bytes out of"):
        read_predictions(file)
    noise = np.random.default_rng(0).random((300, 1000)).astype(np.float32)
    table(file, filename=[str(i) for i in range(300)], scores=list(noise))
    assert read_predictions(file).scores.num_classes == 1000
    wide = pa.array([np.zeros(100_001, np.float32)])
    with pytest.raises(DataError, match="scores for 100001 classes"):
        read_predictions(table(tmp_path / "w.parquet", filename=["a"], scores=wide))


def test_encodings(tmp_path: Path, good: Path):
    text = good.read_bytes()
    for data in (
        b"\xef\xbb\xbf" + text,
        text.replace(b"\n", b"\r\n"),
        gzip.compress(text, mtime=0),
    ):
        file = put(tmp_path / "a.tsv", data)
        assert read_predictions(file).file_names == [NAME]
        assert read_truths(file).labels.toarray().tolist() == [[False, True, True]]
    packed = put(tmp_path / "real.json.gz", gzip.compress(b"\xef\xbb\xbf[[1]]", mtime=0))
    assert read_truths(packed).format == "real"
    for data, what in (
        (text.decode().encode("utf-16"), "UTF-16"),
        (b"\xfc.jpg\t1\n", "not UTF-8"),
        (b"a\0b\t1\n", "binary"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\t1\n", "Git LFS pointer"),
    ):
        with pytest.raises(DataError, match=what):
            read_predictions(put(tmp_path / "a.tsv", data))


def test_what_is_no_file_is_refused(tmp_path: Path, good: Path):
    os.mkfifo(tmp_path / "pipe.tsv")
    for call in (read_predictions, read_truths):
        with pytest.raises(DataError, match="is a pipe"):
            call(tmp_path / "pipe.tsv")
    with pytest.raises(DataError, match="is a folder"):
        read_predictions(tmp_path)


def test_folders_of_classes(tmp_path: Path):
    for name in ("0/a.jpeg", "10/a.jpeg", "10/._a.jpeg", ".cache/b.jpeg", "2/deep/c.JPEG"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    truth = read_truths(tmp_path)
    assert truth.file_names == ["0/a.jpeg", "2/deep/c.JPEG", "10/a.jpeg"]
    (tmp_path / ("9" * 250)).mkdir()
    with pytest.raises(DataError):
        read_truths(tmp_path, "real")


def test_a_listing_of_voc_anywhere(tmp_path: Path, monkeypatch):
    xml = (
        "<annotation><size><width>9</width><height>9</height></size><object><name>cow</name><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "Annotations/deep").mkdir(parents=True)
    for name in ("a", "b", "deep/a"):
        put(tmp_path / f"Annotations/{name}.xml", xml)
    put(tmp_path / "few.txt", "b\n")
    monkeypatch.chdir(tmp_path)
    assert read_truths("few.txt", "voc").file_names == ["b.jpg"]
    assert read_truths("Annotations/deep/a.xml").file_names == ["deep/a.jpg"]
    # What the reader has to tell is told.
    assert "without images" in read_truths(tmp_path).notes[0]
