"""Reading predictions, and bringing them onto the truth's classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel.errors import ConfigError, DataError
from relabel.evaluation.multilabel.evaluate import evaluate_multilabel
from relabel.evaluation.multilabel.predictions import Predictions, read_predictions


def parquet(path: Path, class_names: list[str] | None = None, **columns: Any) -> Path:
    table = pa.table(columns)
    if class_names is not None:
        table = table.replace_schema_metadata({"class_names": json.dumps(class_names)})
    pq.write_table(table, path)
    return path


def matrix(predictions: Predictions) -> list[list[float]]:
    return predictions.scores.block(0, len(predictions.file_names)).tolist()


@pytest.mark.parametrize("name", ["filename", "file_name", "image"])
@pytest.mark.parametrize("column", ["scores", "probs", "probabilities", "logits"])
def test_dense(tmp_path: Path, name: str, column: str) -> None:
    rows = [[0.5, -1.0, 2.0], [0.25, 0.0, 1.0]]
    for kind in (pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 3)):
        file = parquet(tmp_path / "p", **{name: ["a", "b"], column: pa.array(rows, kind)})
        found = read_predictions(file)
        assert (found.file_names, found.num_classes) == (["a", "b"], 3)
        assert matrix(found) == rows


@pytest.mark.parametrize("column", ["ids", "labels", "classes"])
def test_sparse(tmp_path: Path, column: str) -> None:
    file = parquet(
        tmp_path / "p.parquet",
        file_name=["a", "b", "c"],
        **{column: pa.array([[2, 0], [], [1]], pa.list_(pa.int32()))},
        probs=[[0.5, 0.25], [], [1.0]],
    )
    found = read_predictions(file)
    assert found.num_classes is None
    assert matrix(found) == [[0.25, 0, 0.5], [0, 0, 0], [0, 1, 0]]


def test_parquet_in_many_row_groups(tmp_path: Path) -> None:
    n = 10_000
    values = np.random.default_rng(0).random((n, 3)).astype(np.float32)
    table = pa.table({"image": [str(i) for i in range(n)], "scores": list(values)})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=700)
    assert np.array_equal(read_predictions(tmp_path / "p.parquet").scores.block(0, n), values)


def test_tsv(tmp_path: Path) -> None:
    file = tmp_path / "labels.tsv"
    file.write_text("x/a.JPEG\t1\t1,0\t1.0000,0.2500\nb.JPEG\t\t\t\n")
    found = read_predictions(file)
    assert found.file_names == ["x/a.JPEG", "b.JPEG"]
    assert matrix(found) == [[0.25, 1.0], [0, 0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"filename": ["a"], "scores": [[0.1, float("nan")]]}, "image 'a': the score of class 1"),
        ({"filename": ["a", "b"], "scores": [[0.1, 0.2], [0.1]]}, "'b': has 1 scores, .* 2"),
        ({"filename": ["a"], "scores": [[0.1, None]]}, "image 'a': column 'scores' has a missing"),
        ({"filename": [None], "scores": [[0.1]]}, "'filename' has an entry that is no text"),
        ({"where": ["a"], "scores": [[0.1]]}, "no column of file names, only where, scores"),
        ({"filename": ["a"], "points": [[0.1]]}, "no column of scores"),
        ({"filename": ["a"], "scores": [0.1]}, "'scores' holds double, not lists"),
        ({"image": ["a"], "ids": [[0, 1]], "probs": [[0.1]]}, "2 classes and 1 scores"),
        ({"image": ["a"], "ids": [[0, 0]], "probs": [[0.1, 0.2]]}, "class id 0 is listed twice"),
        ({"image": ["z", "a"], "ids": [[], [-1]], "probs": [[], [0.1]]}, "'a': class id -1"),
        ({"image": ["a"], "ids": [[3]], "probs": [[-0.1]]}, "score -0.1 of class 3 is below 0"),
        ({"image": ["a"], "ids": [[3]], "probs": [[float("nan")]]}, "the score of class 3 is nan"),
        ({"image": ["a"], "ids": [["cat"]], "probs": [[0.1]]}, "'ids' does not hold whole"),
    ],
)
def test_parquet_errors(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_predictions(parquet(tmp_path / "p.parquet", **columns))


def test_damaged_files(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "p.parquet", filename=["a"], scores=[[0.1]])
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    text = tmp_path / "text.parquet"
    text.write_text("a")
    for file, message in (
        (cut, "not a readable Parquet file"),
        (text, "is not a Parquet file"),
        (tmp_path / "none.tsv", "file does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            read_predictions(file)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """COCO truth whose categories, by id, are dog, cat and cow: a.jpg a cat, b.jpg dog and cat."""
    pairs = [(1, 5), (2, 5), (2, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [
            {"id": 5, "name": "cat"},
            {"id": 2, "name": "dog"},
            {"id": 8, "name": "cow"},
        ],
        "annotations": [{"image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for i, c in pairs],
    }
    file = tmp_path / "pets.json"
    file.write_text(json.dumps(content))
    return file


def test_classes_by_position_and_by_name(pets: Path, tmp_path: Path) -> None:
    names = ["a.jpg", "b.jpg"]
    by_id = parquet(tmp_path / "id", image=names, scores=[[0.1, 0.9, 0.0], [0.8, 0.7, 0.0]])
    assert evaluate_multilabel(pets, by_id).metrics.example_mAP == 1.0
    # The same scores of classes that the predictions call and order otherwise; no cow, a bird.
    other = parquet(
        tmp_path / "named",
        ["Cat", "bird", "dog"],
        image=names,
        scores=[[0.9, 0.95, 0.1], [0.7, 0.0, 0.8]],
    )
    found = evaluate_multilabel(pets, other)
    assert (found.metrics.example_mAP, found.metrics.class_mAP) == (1.0, 1.0)
    assert found.class_aps() == {"dog": 1.0, "cat": 1.0}
    assert found.warnings == [
        f"1 of 3 predicted classes are not among the 3 of {pets} and are left out"
    ]
    listed = parquet(
        tmp_path / "listed",
        ["cat", "bird", "dog"],
        image=names,
        ids=[[0, 1], [2, 0]],
        probs=[[0.9, 0.95], [0.8, 0.7]],
    )
    assert evaluate_multilabel(pets, listed).metrics.example_mAP == 1.0
    # By position the bird's score is the cat's: a: 1st of 3; b: dog 2nd, cat 3rd of 3.
    forced = evaluate_multilabel(pets, other, classes_by="position")
    assert forced.metrics.example_mAP == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def test_classes_that_do_not_fit(pets: Path, tmp_path: Path) -> None:
    def check(message: str, kind: type[Exception] = DataError, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            evaluate_multilabel(options.pop("truth", pets), file, **options)

    names = ["a.jpg", "b.jpg"]
    file = parquet(tmp_path / "p", ["catt", "dog"], image=names, scores=[[0.1, 0.2]] * 2)
    check("does not predict 1 classes of .*'cat'. Did you mean 'catt'")
    check("scores for 2 classes, expected 3", classes_by="position")
    file = parquet(tmp_path / "p", ["cat", "dog", "CAT"], image=names, scores=[[0, 0, 0.2]] * 2)
    check("two of the class names are 'cat'")
    file = parquet(tmp_path / "p", image=names, ids=[[0], [3]], probs=[[0.1], [0.2]])
    check("image 'b.jpg': class id 3 is out of range: there are 3 classes")
    check("predictions has no class names", ConfigError, classes_by="name")
    check("--classes is 4", ConfigError, classes=4)

    real = tmp_path / "real.json"
    real.write_text("[[0], [5]]")
    names = [f"ILSVRC2012_val_0000000{i}" for i in (1, 2)]
    file = parquet(tmp_path / "p", image=names, scores=[[0.1] * 1001] * 2)
    check("scores for 1001 classes, ImageNet has 1000. A background", truth=real)
    file = parquet(tmp_path / "p", image=names, scores=[[0.1, 0.2, 0.3]] * 2)
    check("00000002.JPEG': class id 5 is out of range: there are 3 classes", truth=real)
    file = parquet(tmp_path / "p", image=names, ids=[[0], [1000]], probs=[[0.1], [0.2]])
    check("'ILSVRC2012_val_00000002': class id 1000 is out of range", truth=real)


def test_classes_of_two_tsv_files(tmp_path: Path) -> None:
    truth, file = tmp_path / "t.tsv", tmp_path / "p.tsv"
    truth.write_text("a\t0\t1,2\t0.9,0.1\n")
    file.write_text("a\t0\t1\t0.7\n")
    # 1 is found first; 0 ties with the 999 classes that are not listed, of ImageNet's or of 4.
    for classes, count in ((None, 1000), (4, 4)):
        found = evaluate_multilabel(truth, file, classes=classes)
        assert found.metrics.example_mAP == pytest.approx((1 + 2 / count) / 2)
