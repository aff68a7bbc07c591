"""``relabel evaluate pseudo-labels`` on files: tables, JSON, the report, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relabel.crosslabel.shards import labelling_run, pseudo_shard
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.base import Detections
from relabel.workspace.columns import write_shard
from relabel.workspace.stage import Shards
from tests.builders.datasets import write_pixels
from tests.builders.pages import ParsedPage
from tests.commands.test_evaluate import run

CLASSES = ["car", "a class whose name is rather long for a table", "tram", "bus"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Noise with true boxes; labels near them, of which every fourth is on nothing."""
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    annotations: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for image in range(1, 7):
        write_pixels(photos / f"{image}.png", rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
        for k in range(4):
            x, y = 30 * k, int(rng.integers(0, 20))
            category = 1 + int(rng.integers(3))
            row = {"image_id": image, "category_id": category, "bbox": [x, y, 24, 24]}
            annotations.append({**row, "id": len(annotations) + 1})
            sure, good = (round(float(s), 3) for s in rng.uniform(0.2, 1, 2))
            box = [x, y if k else 60, 24, 10 + 14 * good]
            row = {**row, "bbox": box, "score": sure, "quality": good}
            labels.append({**row, "id": len(labels) + 1})
    common = {
        "images": [{"id": i, "file_name": f"photos/{i}.png"} for i in range(1, 7)],
        "categories": [{"id": c, "name": name} for c, name in enumerate(CLASSES, 1)],
    }
    paths = {}
    for name, content in (("truth", annotations), ("labels", labels)):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps({**common, "annotations": content}))
    return paths


def write_shards(files: dict[str, Path], folder: Path) -> Path:
    """The same labels as cross-label writes them."""
    space = LabelSpace.from_names("fine", CLASSES)
    settings = {"score_storage": "float32", "min_score": 0.05}
    run = labelling_run(space, by="fine", on="photos", images=6, settings=settings, model="")
    found = {}
    for image in range(1, 7):
        rows = [
            row
            for row in json.loads(files["labels"].read_text())["annotations"]
            if row["image_id"] == image
        ]
        boxes = np.array([row["bbox"] for row in rows], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.zeros((len(rows), len(CLASSES)), np.float32)
        for k, row in enumerate(rows):
            scores[k, row["category_id"] - 1] = row["score"]
        quality = np.array([row["quality"] for row in rows], np.float32)
        found[image - 1] = Detections(boxes, scores, quality)
    names = [f"photos/{i}.png" for i in range(1, 7)]
    path = Shards(folder, total=6, size=6).paths[0]
    write_shard(path, pseudo_shard(run, list(range(6)), names, found))
    return folder


def command(files: dict[str, Path], *more: str | Path) -> tuple[str | Path, ...]:
    return ("evaluate", "pseudo-labels", "--truth", files["truth"], *more)


def test_shards_and_file_give_the_same_numbers(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    made = command(files, "--predictions", files["labels"], "--json", "--out", out)
    code, text, _ = run(capsys, *made)
    assert code == 0
    content = json.loads(text)
    assert json.loads(out.read_text()) == content
    assert content["counts"]["truth"] == content["counts"]["labels"] == 24
    assert [rates["threshold"] for rates in content["rates"]] == [0, 0.5]
    assert content["rates"][0]["at"]["0.5"]["precision"] <= 0.75
    assert set(content["AP"]) == {"score", "quality", "product", "geometric"}
    # The height follows v.
    assert content["spearman"]["overlap"]["quality"] > 0.9
    assert content["spearman"]["overlap"]["labels"] == 18
    assert content["per_class"]["bus"]["truth"] == 0
    assert content["per_class"]["bus"]["AP"]["score"] is None
    shards = write_shards(files, tmp_path / "shards")
    code, text, err = run(capsys, *command(files, "--labels", shards, "--json"))
    assert (code, err) == (0, "")
    again = json.loads(text)
    assert again["counts"] == content["counts"]
    for ranking, numbers in content["AP"].items():
        assert again["AP"][ranking] == pytest.approx(numbers, abs=1e-6)


def test_tables_fit_a_terminal(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    options = ("--threshold", "0.3", "--threshold-on", "product", "--rare", "1")
    code, text, _ = run(capsys, *command(files, "--predictions", files["labels"], *options))
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    assert "p·v ≥ 0.3" in text and "AP rare" in text and "√(p·v)" in text
    assert "…" not in text


def test_the_report_has_pictures_or_says_why_not(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    made = command(files, "--predictions", files["labels"], "--report", page, "--pictures", "3")
    assert run(capsys, *made)[0] == 0
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 9
    assert "Sure and wrong" in html and "Right, with the loosest boxes" in html
    assert len(re.findall("<svg", html)) >= 2
    ParsedPage(html).check()
    assert not re.search(r"https?://(?!www\.w3\.org)", html)
    assert run(capsys, *made)[0] == 0
    assert page.read_text().partition('id="made"')[0] == html.partition('id="made"')[0]
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    code, _, err = run(capsys, *made)
    assert code == 0
    assert err.count("have no picture") == 1 and "--images" in err
    assert "have no picture" in page.read_text()
    (tmp_path / "moved").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "moved" / "photos")
    assert run(capsys, *made, "--images", tmp_path / "moved")[0] == 0
    # All but how it was made.
    assert page.read_text().partition('id="made"')[0] == html.partition('id="made"')[0]


def test_what_is_refused(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *command(files))
    assert code == 2 and "--labels DIR or --predictions FILE" in err
    made = command(files, "--predictions", files["labels"])
    code, _, err = run(capsys, *made, "--report", files["truth"])
    assert code and "no report" in err
    content = json.loads(files["labels"].read_text())
    content["categories"][0]["name"] = "cars"
    files["labels"].write_text(json.dumps(content))
    code, _, err = run(capsys, *made)
    assert code and "category 'cars' does not exist" in err and "'car'" in err
