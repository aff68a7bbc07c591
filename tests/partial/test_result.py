"""The written result: parts, files, counts, report and FiftyOne dataset, worked out by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from relabel.datasets.multilabels import read_tsv
from relabel.datasets.partial.files import read_partial
from relabel.datasets.partial.labels import PartialLabels, sparse_known
from relabel.errors import DataError
from relabel.evaluation.multilabel.predictions import read_predictions
from relabel.partial.predict import SOURCES, Prediction
from relabel.partial.result.fiftyone_export import write_fiftyone
from relabel.partial.result.parts import completed_parts
from relabel.partial.result.report import write_result_report
from relabel.partial.result.summary import BINS, CompletionSummary
from relabel.partial.result.write import TSV_LEAST, write_labels
from tests.builders.datasets import write_pixels
from tests.builders.pages import ParsedPage
from tests.fiftyone_database import looked_at_by_fiftyone

CLASSIFIER, KNOWN, IST, CST = (SOURCES.index(n) for n in ("classifier", "known", "ist", "cst"))
CLASSES = ("cat", "dog", "über, cow")
#                cat        dog        cow
KNOWN_LABELS = [[1, 0, 0], [0, -1, 0], [1, 1, -1], [0, 0, 0]]
SCORES = [[1, 0.75, 0.25], [0.5, 0, 0.02], [1, 1, 0], [0.125, 0.875, 0.5]]
SOURCE = [
    [KNOWN, IST, CLASSIFIER],
    [CLASSIFIER, KNOWN, CLASSIFIER],
    [KNOWN, KNOWN, KNOWN],
    [CLASSIFIER, CST, CLASSIFIER],
]
TRUTH = [[1, 1, -1], [-1, -1, -1], [1, 1, -1], [-1, 1, 1]]
COMPLETED = [[0, 1], [0], [0, 1], [1, 2]]  # at 0.5


def labels_of(known: Any = KNOWN_LABELS, root: Path | None = None) -> PartialLabels:
    known = np.array(known, np.int8)
    names = [f"a/{i}.png" for i in range(len(known))]
    return PartialLabels("small", root, names, CLASSES, sparse_known(known))


def batches(sizes: tuple[int, ...] = (1, 2, 1)) -> Iterator[tuple[np.ndarray, Prediction]]:
    """The predictions in batches of such sizes."""
    start = 0
    for size in sizes:
        rows = np.arange(start, start + size)
        scores = np.array(SCORES, np.float32)[rows]
        yield rows, Prediction(scores, np.array(SOURCE, np.uint8)[rows])
        start += size


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images a part, which no batch ends with."""
    monkeypatch.setattr("relabel.datasets.partial.labels._BLOCK_CELLS", 9)


@pytest.mark.parametrize("sizes", [(4,), (1, 1, 1, 1), (2, 2), (1, 3)])
def test_parts_follow_blocks_not_batches(sizes: tuple[int, ...]) -> None:
    found = list(completed_parts(labels_of(), batches(sizes), 0.5))
    assert [(part.start, len(part)) for part in found] == [(0, 3), (3, 1)]
    assert (
        np.concatenate([p.scores for p in found]).tolist() == np.array(SCORES, np.float32).tolist()
    )
    assert np.concatenate([p.source for p in found]).tolist() == SOURCE
    present = np.concatenate([p.present for p in found])
    assert [np.flatnonzero(row).tolist() for row in present] == COMPLETED
    assert found[1].unknown.all() and found[0].unknown.sum() == 4


@pytest.mark.parametrize("sizes", [(2, 1), (2,), ()])
def test_predictions_that_stop_short_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lack image"):
        list(completed_parts(labels_of(), batches(sizes), 0.5))


def test_predictions_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 3"):
        list(completed_parts(labels_of(KNOWN_LABELS[:3]), batches((2, 2)), 0.5))
    late = ((rows + 1, p) for rows, p in batches())
    with pytest.raises(ValueError, match="lack image 0"):
        list(completed_parts(labels_of(), late, 0.5))
    assert not list(completed_parts(labels_of(np.zeros((0, 3))), iter(()), 0.5))


def test_files(tmp_path: Path) -> None:
    files = write_labels(tmp_path, CLASSES, completed_parts(labels_of(), batches(), 0.5))
    assert sorted(files.values()) == sorted(p.name for p in tmp_path.iterdir())

    table = pq.read_table(tmp_path / files["parquet"]).to_pydict()
    assert table["file_name"] == [f"a/{i}.png" for i in range(4)]
    assert table["present"] == [[0], [], [0, 1], []]
    assert table["absent"] == [[], [1], [2], []]
    assert table["scores"] == np.array(SCORES, np.float32).tolist()
    assert table["source"] == [[SOURCES[k] for k in row] for row in SOURCE]
    again = read_partial(tmp_path / files["parquet"])
    assert again.classes == CLASSES and again.dense().tolist() == KNOWN_LABELS
    scores = read_predictions(
        tmp_path / files["parquet"]
    )  # `evaluate multilabel` takes it as it is
    assert scores.class_names == list(CLASSES)

    with (tmp_path / files["csv"]).open(newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["file_name", *CLASSES]
    assert [[int(v) for v in row[1:]] for row in rows] == [
        [1 if c in present else -1 for c in range(3)] for present in COMPLETED
    ]

    listed = json.loads((tmp_path / files["json"]).read_text(encoding="utf-8"))
    assert listed == {f"a/{i}.png": present for i, present in enumerate(COMPLETED)}
    assert read_partial(tmp_path / files["json"]).num_classes == 3

    soft = read_tsv(tmp_path / files["tsv"], 3)
    dense = soft.labels.toarray()
    kept = np.array(SCORES, np.float32) * (np.array(SCORES) >= TSV_LEAST)
    assert np.allclose(dense, kept, atol=1e-4) and soft.labels.nnz == (kept > 0).sum()
    assert (soft.gt == -1).all()


def test_a_part_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lack"):
        write_labels(tmp_path, CLASSES, completed_parts(labels_of(), batches((1,)), 0.5))
    assert not list(tmp_path.iterdir())


def test_no_image_gives_files_that_read(tmp_path: Path) -> None:
    nothing = labels_of(np.zeros((0, 3)))
    write_labels(tmp_path, CLASSES, completed_parts(nothing, iter(()), 0.5))
    assert len(read_partial(tmp_path / "labels.parquet")) == 0
    assert json.loads((tmp_path / "labels.json").read_text()) == {}


def summed(pictures: int = 24, truth: bool = True) -> CompletionSummary:
    summary = CompletionSummary(3, pictures=pictures)
    for part in completed_parts(labels_of(), batches(), 0.5):
        rows = slice(part.start, part.start + len(part))
        summary.add(part, np.array(TRUTH, np.int8)[rows] if truth else None)
    return summary


def test_counts_worked_out_by_hand() -> None:
    summary = summed()
    assert summary.images == 4
    assert summary.present.tolist() == [2, 1, 0]
    assert summary.absent.tolist() == [0, 1, 1]
    assert summary.unknown.tolist() == [2, 2, 3]
    assert summary.added[IST].tolist() == [0, 1, 0]
    assert summary.added[CST].tolist() == [0, 1, 0]
    assert summary.added[CLASSIFIER].tolist() == [1, 0, 1]
    assert summary.added[KNOWN].tolist() == [0, 0, 0]
    assert summary.before.tolist()[:4] == [2, 1, 1, 0]
    assert summary.after.tolist()[:4] == [0, 1, 3, 0]
    assert summary.pairs.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    # Of the images known to show a cat one tells of dogs, and shows one; one tells of cows.
    expected = [[1, 1, 0], [1, 1, 0], [np.nan, np.nan, np.nan]]
    np.testing.assert_array_equal(summary.statistical(), expected)
    assert summary.told().tolist() == [[2, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_cooccurrence_of_completed_labels_is_a_direct_loop() -> None:
    found, scores = summed().completed(), np.array(SCORES)
    for a in range(3):
        for b in range(3):
            if a != b:
                both = sum(image[a] * image[b] for image in scores)
                assert found[a, b] == pytest.approx(both / sum(image[a] for image in scores))
    assert np.diag(found).tolist() == [1, 1, 1]


def test_reliability_worked_out_by_hand() -> None:
    found = summed().reliability()
    # (confidence, right) of the hidden labels: 0.75 r, 0.25, 0.5, 0.02, 0.125, 0.875 r, 0.5 r.
    count = np.zeros(BINS, int)
    for confidence in (0.75, 0.25, 0.5, 0.02, 0.125, 0.875, 0.5):
        count[int(confidence * BINS)] += 1
    assert found.count.tolist() == count.tolist()
    assert found.share[5] == 0.5 and found.confidence[5] == 0.5
    gaps = [0.25, 0.25, 0, 0.02, 0.125, 0.125]
    assert found.error == pytest.approx(sum(gaps) / 7)
    assert summed(truth=False).reliability().error is None


def test_pictures_are_chosen_once_and_keep_no_part() -> None:
    shown = summed(pictures=3).picks()
    assert [s.group for s in shown] == ["Most labels added", "Most labels added", "At random"]
    assert shown[0].row == 3 and len({s.row for s in shown}) == 3
    assert all(s.scores.base is None for s in shown)
    everything = summed(pictures=30).picks()
    assert sorted(s.row for s in everything) == [0, 1, 2, 3]


def images(folder: Path) -> PartialLabels:
    labels = labels_of(root=folder)
    for i, name in enumerate(labels.file_names):
        write_pixels(folder / name, np.full((8, 12, 3), 40 * i, np.uint8))
    return labels


def test_report_names_completions_and_marks_them(tmp_path: Path) -> None:
    labels = images(tmp_path / "images")
    (tmp_path / "images" / "a/2.png").unlink()  # a picture that is gone is left out

    def write(name: str, **more: Any) -> str:
        return write_result_report(
            tmp_path / name, labels, summed(), title="Labels & <b>", threshold=0.5, **more
        ).read_text(encoding="utf-8")

    page = write("a.html", metrics=[("mAP", "hidden labels", 0.625)], class_ap={"dog": 0.5})
    assert page == write("b.html", metrics=[("mAP", "hidden labels", 0.625)], class_ap={"dog": 0.5})
    ParsedPage(page).check()
    assert "Labels &amp; &lt;b&gt;" in page and "http:" not in page and "https:" not in page
    for text in ("Statistical", "Learned", "Most frequent pairs", "62.5", "über, cow", "✗ 0.50"):
        assert text in page, text
    assert page.count("<img") == 3 and "a/2.png" not in page
    assert "own transfer between labels" in write("c.html", learned=np.full((3, 3), 0.5))
    bare = CompletionSummary(3)
    for part in completed_parts(labels_of(), batches(), 0.5):
        bare.add(part)
    plain = write_result_report(tmp_path / "d.html", labels, bare, title="x", threshold=0.5)
    assert "There is no truth" in plain.read_text(encoding="utf-8")


def test_fiftyone_dataset(tmp_path: Path) -> None:
    labels = images(tmp_path / "images")
    out = tmp_path / "fiftyone"
    write_fiftyone(out, labels, completed_parts(labels, batches(), 0.5))
    samples = json.loads((out / "samples.json").read_text())["samples"]
    first = samples[0]
    assert first["filepath"] == str(tmp_path / "images" / "a/0.png")
    found = [(c["label"], c["confidence"], c["source"]) for c in classified(first, "completed")]
    assert found == [("cat", 1.0, "known"), ("dog", 0.75, "ist")]
    assert [c["label"] for c in classified(samples[2], "absent")] == ["über, cow"]
    assert [s["num_added"] for s in samples] == [1, 1, 0, 2]
    with pytest.raises(DataError, match="without pictures"):
        write_fiftyone(out, labels_of(), completed_parts(labels, batches(), 0.5))


def classified(sample: dict[str, Any], field: str) -> list[dict[str, Any]]:
    return sample[field]["classifications"]


@pytest.mark.fiftyone
@pytest.mark.slow
def test_fiftyone_loads_it(tmp_path: Path) -> None:
    labels = images(tmp_path / "images")
    out = tmp_path / "fiftyone"
    write_fiftyone(out, labels, completed_parts(labels, batches(), 0.5))
    look = (
        "c = s.completed.classifications[1]\n"
        "print(json.dumps([len(d), c.label, c.confidence, c.source, s.num_added]))"
    )
    seen = looked_at_by_fiftyone(out, look, database=tmp_path / "database")
    assert seen == [4, "dog", 0.75, "ist", 1]
