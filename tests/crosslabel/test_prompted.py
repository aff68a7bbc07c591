from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relabel.catalogue.catalogue import DatasetEntry
from relabel.cli import main
from relabel.crosslabel.prompted import cross_label_sam3
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.crosslabel.shards import read_pseudo_labels
from relabel.datasets.labelspace import LabelSpace
from relabel.detectors.sam3.detector import Sam3Detector
from relabel.detectors.sam3.settings import Sam3Settings
from relabel.settings import Runtime
from tests.builders.sam3 import tiny_sam3

RUNTIME = Runtime(device="cpu", workers=0, quiet=True)
LABELLING = CrossLabelSettings(shard_images=2, batch_size=2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sam3(tmp_path_factory.mktemp("sam3"))


def test_sam3_labels_in_any_label_space_and_resumes(
    weights: Path,
    coco_set: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = coco_set("coarse", ["vehicle"], 5)
    dataset = DatasetEntry("coarse", root, "coco", files={"train": "train.json"}).read("train")
    fine = LabelSpace.from_names("fine", ["car", "bus"])
    sam3 = Sam3Settings(model=str(weights))
    out = tmp_path / "labels"
    cross_label_sam3(fine, dataset, out, LABELLING, RUNTIME, sam3=sam3)
    labels = read_pseudo_labels(out)
    assert (labels.by, labels.on, labels.space) == ("sam3", "coarse", fine)
    assert labels.scores.shape == (len(labels), 2) and labels.coverage.all()
    assert len(labels) and (labels.boxes <= [64, 48, 64, 48]).all()
    before = {p.name: p.read_bytes() for p in out.glob("*.parquet")}
    assert len(before) == 3

    seen: list[int] = []
    predict = Sam3Detector.predict
    monkeypatch.setattr(
        Sam3Detector, "predict", lambda self, batch: seen.append(len(batch)) or predict(self, batch)
    )
    (out / "shard-00001-of-00003.parquet").unlink()
    cross_label_sam3(fine, dataset, out, LABELLING, RUNTIME, sam3=sam3)
    assert seen == [2]
    assert {p.name: p.read_bytes() for p in out.glob("*.parquet")} == before
    # Other prompts are another prompted detector: no shard of the old ones stays.
    other = LabelSpace.from_names("fine", ["car", "lorry"])
    cross_label_sam3(other, dataset, out, LABELLING, RUNTIME, sam3=sam3)
    assert sum(seen) == 2 + 5


class Commands:
    """Runs ``relabel cross-label`` in this process, on datasets named in relabel.toml."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def run(self, *args: str, status: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["cross-label", *args, "--workers", "0", "--device", "cpu"])
        out, err = self.capsys.readouterr()
        assert ended.value.code == status, err
        return str(out), str(err)


@pytest.fixture
def commands(
    coco_set: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Commands:
    tables = []
    for name, classes in (("fine", ["car", "bus"]), ("coarse", ["vehicle"])):
        coco_set(name, classes, 2)
        tables.append(
            f'[datasets.{name}]\nformat = "coco"\nroot = "{name}"\ntrain = "train.json"\n'
        )
    (tmp_path / "relabel.toml").write_text("".join(tables))
    monkeypatch.chdir(tmp_path)
    return Commands(capsys)


def test_command(commands: Commands, weights: Path, tmp_path: Path) -> None:
    command = (f"sam3:{weights}", "coarse", "-o", "labels", "--prompts-from", "fine", "--json")
    result = json.loads(commands.run(*command)[0])
    labels = read_pseudo_labels(tmp_path / "labels")
    assert labels.space.class_names == ["car", "bus"] and result["by"] == "sam3"
    assert result["boxes"] == len(labels) > 0
    assert "Labelled already" in commands.run(*command)[1]
    # A YAML file brings prompts; they are part of what the labels depend on.
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ncategories:\n- {id: 1, name: car, prompt: small car}\n- {id: 2, name: bus}\n"
    )
    changed = (*command[:4], "--prompts-from", "mine.yaml")
    assert "inputs.prompts" in commands.run(*changed, status=1)[1]
    commands.run(*changed, "--overwrite")
    found = read_pseudo_labels(tmp_path / "labels")
    assert found.space.name == "mine" and not np.array_equal(found.score, labels.score)


def test_command_takes_the_model_of_relabel_toml(
    commands: Commands, weights: Path, tmp_path: Path
) -> None:
    with (tmp_path / "relabel.toml").open("a") as stream:
        stream.write(f'[sam3]\nmodel = "{weights}"\nimage_size = 56\n')
    commands.run("sam3", "coarse", "-o", "labels", "--prompts-from", "fine")
    stage = json.loads((tmp_path / "labels" / "stage.json").read_text())
    assert stage["settings"]["sam3"]["image_size"] == 56
    assert str(tmp_path.parent) not in json.dumps(stage["settings"])


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (("sam3:nowhere/none", "coarse"), 2, "add --prompts-from NAME"),
        (("gone", "coarse"), 2, "Directory 'gone' does not exist"),
        (("fine", "coarse", "--prompts-from", "fine"), 2, "is for sam3"),
        (("sam3:./gone", "coarse", "--prompts-from", "fine"), 1, "no such SAM 3 model folder"),
        (("sam3:fine", "coarse", "--prompts-from", "fnie"), 1, "Did you mean 'fine'"),
        (("sam3:fine", "coarse", "--prompts-from", "fine"), 1, "the folder has no config.json"),
    ],
)
def test_wrong_usage_is_told(
    commands: Commands, args: tuple[str, ...], status: int, text: str
) -> None:
    error = commands.run(*args, "-o", "labels", status=status)[1]
    assert text in error and "Traceback" not in error
