"""``relabel evaluate`` through the root command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in args])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    truth: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500}
        ],
    }
    scored = {**truth, "annotations": [{**truth["annotations"][0], "score": 0.9}]}
    source = {
        **truth,
        "categories": [{"id": 1, "name": "vehicle"}],
        "annotations": [{**truth["annotations"][0], "bbox": [0, 0, 50, 40]}],
    }
    results = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.9}]
    contents = {"truth": truth, "scored": scored, "source": source, "results": results}
    paths = {}
    for name, content in contents.items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(content))
    return paths


def test_detections_json(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.json"
    for predictions in (files["results"], files["scored"]):
        code, text, _ = run(
            capsys,
            *("evaluate", "detections", "--truth", files["truth"]),
            *("--predictions", predictions, "--json", "--out", out),
        )
        assert code == 0
        content = json.loads(text)
        assert list(content) == [
            *("AP", "AP50", "AP75", "APs", "APm", "APl"),
            *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "per_class"),
        ]
        assert [content[k] for k in ("AP", "APm", "AR100")] == pytest.approx([1.0] * 3)
        assert content["APs"] is None
        assert content["per_class"] == {"car": pytest.approx(1.0), "bus": None}
        assert json.loads(out.read_text()) == content


def test_detections_table(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(
        capsys,
        *("evaluate", "detections", "--truth", files["truth"], "--predictions", files["results"]),
    )
    assert code == 0
    assert "AP75" in text
    assert "100.0" in text


def test_transfer_json(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, err = run(
        capsys,
        *("evaluate", "transfer", "--truth", files["truth"], "--predictions", files["scored"]),
        *("--source", files["source"], "--json"),
    )
    assert (code, err) == (0, "")
    content = json.loads(text)
    assert [content[k] for k in ("AP", "AP50", "AP75")] == pytest.approx([1.0] * 3)
    assert set(content["at"]) == {"0.5", "0.75"}
    for quality in content["at"].values():
        assert [quality[k] for k in ("precision", "recall", "f1", "class_accuracy")] == [1.0] * 4
    assert content["mean_iou"]["before"] == pytest.approx(0.8)
    assert content["mean_iou"]["after"] == 1.0
    assert content["transition"]["counts"] == [[1, 0]]
    assert content["lrp"]["total"] == content["annotations"]["lost_share"] == 0
    (by_class,) = content["by_source"].values()
    assert by_class == {"car": {"car": 1}}


def test_transfer_table_and_floors(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from relabel.crosslabel import given, pseudo, shards
    from relabel.datasets.labelspace import LabelSpace

    labels = pseudo.PseudoLabels(
        space=LabelSpace.from_names("fine", ["car", "bus"]),
        by="fine",
        on="source",
        file_name=["a.jpg", "b.jpg"],
        image=np.array([0], np.int32),
        boxes=np.array([[0, 0, 50, 45]], np.float32),
        scores=np.array([[0.2, 0.8]], np.float32),
    )
    monkeypatch.setattr(shards, "read_pseudo_labels", lambda path: labels)
    seen = given.GivenLabels(
        **{name: getattr(labels, name) for name in ("space", "by", "on", "file_name")},
        image=labels.image,
        boxes=labels.boxes,
        scores=np.array([[0.8, 0.2]], np.float32),
        annotation=np.array([1]),
    )
    monkeypatch.setattr(given, "read_given_labels", lambda path: seen)
    source = json.loads(files["source"].read_text())
    for image in source["images"]:
        image.update(width=64, height=64)
    files["source"].write_text(json.dumps(source))
    command = (
        *("evaluate", "transfer", "--truth", files["truth"], "--predictions", files["scored"]),
        *("--source", files["source"], "--baselines", "anywhere"),
    )
    code, text, _ = run(capsys, *command, "--json")
    assert code == 0
    baselines = json.loads(text)["baselines"]
    assert len(baselines) == 4
    assert baselines["filtered pseudo-labels"]["at"]["0.5"]["class_accuracy"] == 0.0
    assert baselines["filtered pseudo-labels"]["mean_iou"]["after"] == pytest.approx(0.9)
    code, text, _ = run(capsys, *command, "--given-boxes", "anywhere", "--json")
    assert code == 0
    guided = json.loads(text)["baselines"]["label-guided pseudo-labels"]
    assert guided["at"]["0.5"]["class_accuracy"] == 1.0
    assert guided["mean_iou"]["after"] == pytest.approx(0.9)
    code, text, _ = run(capsys, *command)
    assert code == 0
    assert "F1@0.75" in text and "LRP loc" in text
    words = " ".join(text.split())  # titles are wrapped
    assert "The source's annotations" in words and "not in truth" in words
    assert "Objects of the truth by the class they were given" in words


def test_damage_is_one_line(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(files["results"].read_text()[:-9])
    for kind in ("detections", "transfer"):
        for predictions in (bad, tmp_path / "absent.json"):
            code, text, err = run(
                capsys,
                *("evaluate", kind, "--truth", files["truth"]),
                *("--predictions", predictions, "--json"),
            )
            assert (code, text) == (1, "")
            assert err.count("\n") == 1
            assert str(predictions) in err
            assert "Traceback" not in err


def test_wrong_usage(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "evaluate", "detections", "--truth", files["truth"])
    assert code == 2
    assert "--predictions" in err
    code, _, err = run(
        capsys,
        *("evaluate", "transfer", "--truth", files["truth"], "--predictions", files["scored"]),
        *("--baselines", "x"),
    )
    assert code == 2
    assert "--source" in err


def test_errors_json(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 50, 50], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.8},
    ]
    files["results"].write_text(json.dumps(results))
    out = tmp_path / "errors.json"
    code, text, err = run(
        capsys,
        *("evaluate", "errors", "--truth", files["truth"], "--predictions", files["results"]),
        *("--min-score", "0.85", "--json", "--out", out),
    )
    assert code == 0
    assert "wrote" in err
    content = json.loads(text)
    assert json.loads(out.read_text()) == content
    assert content["AP50"] == 0.0
    assert content["iou"] == {"foreground": 0.5, "background": 0.1}
    assert content["counts"] == {
        **dict.fromkeys(("localization", "both", "duplicate", "missed"), 0),
        "classification": 1,
        "background": 1,
    }
    # The bus becomes the car, still ahead of the false car.
    assert content["dAP"]["classification"] == pytest.approx(1.0)
    assert content["per_class"]["bus"]["AP50"] is None
    assert content["confusion"]["counts"] == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert content["confusion"]["min_score"] == 0.85


def test_errors_tables_and_missing_scores(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("evaluate", "errors", "--truth", files["truth"], "--predictions")
    code, text, _ = run(capsys, *command, files["results"])
    assert code == 0
    for words in ("Errors at AP50 100.0", "localization", "dAP", "(missed)", "(background)"):
        assert words in text
    code, text, err = run(capsys, *command, files["source"])
    assert (code, text) == (1, "")
    assert "without a score" in err


def test_out_is_never_an_input_nor_a_strangers_file(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link.json").symlink_to(files["truth"])
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "hard.json").hardlink_to(files["results"])
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    where = ["--truth", files["truth"], "--predictions", files["results"]]
    for command in (["evaluate", "detections"], ["evaluate", "errors"]):
        for out in (files["truth"], files["results"], "link.json", "hard.json"):
            code, _, error = run(capsys, *command, *where, "--out", tmp_path / out)
            assert code == 1 and "is an input" in error
        code, _, error = run(capsys, *command, *where, "--out", tmp_path / "other.json")
        assert code == 1 and "is no result of this command" in error
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    for _ in range(2):  # a result is replaced by the next
        code, _, _ = run(capsys, "evaluate", "detections", *where, "--out", tmp_path / "r.json")
        assert code == 0
