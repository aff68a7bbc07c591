"""``relabel train-classifier`` and ``relabel classify`` through the root command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from relabel.cli import main
from tests.builders.colours import COLOURS, tiny_resnet, two_colour_set

QUICK = (
    *("--preset", "light", "--steps", "40", "--batch-size", "8", "--lr", "0.02"),
    *("--set", "classifier.backbone_lr_scale=1", "--set", "classifier.batch_norm=train"),
    *("--image-size", "32", "--precision", "fp32"),
    *("--set", "classifier.test_crop=1", "--set", "classifier.crop_scale=0.6,1"),
    *("--device", "cpu", "--workers", "0", "--quiet"),
)
RUN = ("--device", "cpu", "--workers", "0", "--quiet")


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_train_then_classify_then_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = two_colour_set(tmp_path / "train", 24)
    truth = two_colour_set(tmp_path / "val", 12, seed=1)
    net = tiny_resnet(tmp_path / "net")
    train = (
        *("train-classifier", "--images", tmp_path / "train", "--labels", labels, "--model", net),
        *("--out", tmp_path / "out", *QUICK, "--json"),
        *("--validate", tmp_path / "val", "--validate-labels", truth),
    )
    code, text, err = run(capsys, *train)
    assert code == 0, err
    metrics = json.loads(text)
    assert metrics["classifier"] == str(tmp_path / "out")
    assert metrics["images"] == 24
    measured = metrics["validation"][-1]
    assert measured["example_mAP"] > 0.9  # chance 0.78
    assert json.loads((tmp_path / "out" / "stage.json").read_text())["state"] == "done"

    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert run(capsys, *train)[0] == 0
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    code, _, err = run(capsys, *train, "--lr", "0.01")
    assert code == 1
    assert "settings.lr: 0.02 → 0.01" in err and "--overwrite" in err

    (tmp_path / "val" / "red" / "bad.png").write_bytes(b"no image")
    classify = ("classify", tmp_path / "out", "--images", tmp_path / "val", *RUN)
    code, _, err = run(capsys, *classify, "--out", tmp_path / "p.parquet")
    assert code == 1 and "bad.png" in err and "--skip-bad" in err
    assert not (tmp_path / "p.parquet").exists()
    for name, more in (("p.parquet", ()), ("top.parquet", ("--top", "2")), ("p.tsv", ())):
        code, text, err = run(
            capsys, *classify, "--out", tmp_path / name, "--skip-bad", "--json", *more
        )
        assert code == 0, err
        assert json.loads(text)["images"] == 12
        assert json.loads(text)["unreadable"] == 1
        assert "bad.png" in err
    code, _, err = run(capsys, *classify, "--out", tmp_path / "p.tsv")
    assert code == 1 and "--overwrite" in err

    import pyarrow.parquet as pq

    dense, sparse = pq.read_table(tmp_path / "p.parquet"), pq.read_table(tmp_path / "top.parquet")
    assert json.loads(dense.schema.metadata[b"class_names"]) == list(COLOURS)
    assert sparse.column_names == ["file_name", "ids", "probs"]
    scores = np.array(dense["scores"].to_pylist())
    assert scores.shape == (12, 3)
    best = np.argsort(-scores, axis=1)[:, :2]
    assert sparse["ids"].to_pylist() == best.tolist()
    from relabel.evaluation.multilabel.evaluate import evaluate_multilabel

    result = evaluate_multilabel(truth, tmp_path / "p.parquet").metrics
    assert result.example_mAP == pytest.approx(measured["example_mAP"])
    assert result.class_mAP == pytest.approx(measured["class_mAP"])


def test_a_detection_set_trains_on_the_classes_of_its_boxes(
    coco_set, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = coco_set("things", ["car", "bus"], images=4)
    code, text, err = run(
        capsys,
        *("train-classifier", "--dataset", root / "train.json", "--out", tmp_path / "out"),
        *("--model", tiny_resnet(tmp_path / "net"), *QUICK, "--steps", "2", "--json"),
        *("--validate", root / "train.json"),
    )
    assert code == 0, err
    metrics = json.loads(text)
    assert metrics["images"] == 4
    assert metrics["validation"][-1]["example_mAP"] == 1  # every image has both classes
    written = json.loads((tmp_path / "out" / "classifier.json").read_text())
    assert written["classes"] == ["car", "bus"]


def test_wrong_usage_and_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "train-classifier")[0] == 2
    two_colour_set(tmp_path / "a", 2)
    code, _, err = run(capsys, "train-classifier", "--images", tmp_path / "a", "--labels", "no.tsv")
    assert (code, err.count("\n")) == (1, 1)
    assert "no.tsv" in err
    out = tmp_path / "out"
    args = ("--images", tmp_path / "a", "--model", "resnt50", "--out", out, *RUN)
    code, _, err = run(capsys, "train-classifier", *args)
    assert (code, err.count("\n")) == (1, 1)
    assert "resnt50" in err
    assert not out.exists()
    code, _, err = run(capsys, "classify", "x", "--images", tmp_path / "a", "--out", "p.csv")
    assert code == 2 and ".parquet" in err


@pytest.mark.slow
@pytest.mark.parametrize("data", ["tinycoco", "voc100"])
def test_transfer_to_real_photos_takes_its_first_steps(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    weights = shared / "weights" / "mobilenet_v2_imagenet"
    if not (weights / "config.json").is_file():
        pytest.skip(f"no pretrained network at {weights}")
    root = shared / "data" / data
    coco = data == "tinycoco"
    where = ("--format", "coco", "--split", "val2017") if coco else ("--format", "voc")
    code, text, err = run(
        capsys,
        *("train-classifier", "--dataset", root, *where, "--model", weights),
        *("--preset", "light", "--steps", "12", "--batch-size", "8", "--image-size", "96"),
        *("--out", tmp_path / "out", *RUN, "--json"),
    )
    assert code == 0, err
    metrics = json.loads(text)
    assert metrics["images"] >= 6
    assert np.isfinite(metrics["losses"]["bce"])
    out = tmp_path / "p.parquet"
    args = ("classify", tmp_path / "out", "--dataset", root, *where, "--out", out, *RUN, "--json")
    code, text, err = run(capsys, *args)
    assert code == 0, err
    assert json.loads(text)["images"] >= metrics["images"]
    from relabel.evaluation.multilabel.evaluate import evaluate_multilabel

    truth = root / "annotations" / "instances_val2017.json" if coco else root
    # On the photos trained on. Classes ranked by their frequency alone: 0.35 on voc100, where the
    # twelve steps reach 0.54; class-wise 0.08 and 0.42.
    measured = evaluate_multilabel(truth, out).metrics
    assert measured.example_mAP > 0.42
    assert measured.class_mAP > 0.2
