"""``relabel evaluate ablation`` on a tiny world: what is run, resumed and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import relabel.crosslabel.shards
from relabel.cli import main
from relabel.studies.ablation import results
from relabel.studies.ablation.inputs import read_align_run, read_held_back
from relabel.studies.ablation.simulate import measure_convention, simulate
from tests.builders.align_run import Workspace


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Bench:
    """The command in a workspace, with every training counted."""

    def __init__(self, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
        self.workspace, self.capsys = workspace, capsys
        self.out = workspace.root / "abl"
        self.trained: list[str] = []
        self.banks: list[Path] = []

    def __call__(self, *args: str) -> Done:
        self.capsys.readouterr()
        base = (
            "--run",
            str(self.workspace.run),
            "--simulate",
            "loose",
            "--workers",
            "0",
            "--quiet",
        )
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "ablation", *base, "--out", str(self.out), *args])
        out, err = self.capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    def forget(self) -> list[str]:
        trained, self.trained, self.banks = self.trained, [], []
        return trained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def bench(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    import relabel.lat.train as train

    bench = Bench(workspace, capsys)
    bench.out = tmp_path / "abl"
    real = train.train_lat

    def counted(*args: Any, **kwargs: Any) -> Path:
        stage = args[3].parent
        bench.trained.append(f"{stage.parent.name}/{stage.name}")
        bench.banks.append(kwargs["bank_folder"])
        return real(*args, **kwargs)

    monkeypatch.setattr(train, "train_lat", counted)
    monkeypatch.setattr(relabel.crosslabel.shards, "read_pseudo_labels", workspace.read_labels)
    monkeypatch.chdir(workspace.root)
    return bench


def test_the_played_source_has_the_source_s_convention(workspace: Workspace) -> None:
    """The world's source boxes are 1.24 times larger, and it leaves small blocks out."""
    world = workspace.world
    convention = measure_convention(world.source, world.labels["tight", "loose"])
    assert convention.wider == pytest.approx(1.24, abs=0.06)
    assert convention.higher == pytest.approx(1.24, abs=0.06)
    assert convention.classes == {"red": "thing", "blue": "thing"}
    simulated = simulate(world.target, world.source, convention)
    assert simulated.name == "loose" and simulated.space == world.source.space
    real = world.target.boxes
    kept = np.flatnonzero(real.xywh[:, 3] >= convention.smallest)
    assert 0 < len(simulated.boxes) == len(kept) < len(real)
    inner = np.all((real.xyxy[kept] > 12) & (real.xyxy[kept] < 84), axis=1)  # not cut by the edge
    ratio = simulated.boxes.xywh[inner, 2:] / real.xywh[kept[inner], 2:]
    assert np.all(np.abs(ratio - [convention.wider, convention.higher]) <= 0.04)


def test_no_arm_sees_the_held_back_fold(bench: Bench, workspace: Workspace) -> None:
    from relabel.catalogue.catalogue import load_catalogue
    from relabel.errors import Problems
    from relabel.settings import Runtime

    run = read_align_run(workspace.run)
    assert (run.target, run.names, run.folds) == ("tight", ("tight", "loose"), 2)
    fold = read_held_back(
        run, "loose", load_catalogue(), Runtime(workers=0, quiet=True), Problems()
    )
    held = list(fold.truth.images.file_name)
    assert held == [f"{i:03d}.png" for i in range(6, 12)]  # the second half of the video
    # The frame next to the held-out stretch is in the gap: nothing learns from it either.
    assert list(fold.data["tight"].images.file_name) == [f"{i:03d}.png" for i in range(5)]
    for (_, on), labels in fold.training.items():
        assert on != "tight" or not set(labels.file_name) & set(held)
    assert set(fold.hidden) == {"tight"}  # the simulated source's specialist has no say


@pytest.mark.slow
def test_the_table_and_what_is_never_redone(bench: Bench) -> None:
    done = bench("--arms", "sff-none,threshold-0.05,layer-8", "--seeds", "0,1", "--json")
    assert done.code == 0, done.err
    # Seed by seed; the arm that equals the default is not trained.
    names = ("default", "sff-none", "layer-8")
    assert bench.trained == [f"{n}/seed{s}" for s in (0, 1) for n in names]
    # One bank for all arms and seeds that pool the same regions.
    default, none, layer = bench.banks[:3]
    assert default == none == bench.banks[3] != layer == bench.banks[5]
    assert not (bench.out / "banks").exists()
    content = json.loads(done.out)
    assert content == json.loads((bench.out / "ablation.json").read_text())
    arms = content["arms"]
    assert set(arms) >= {"default", "sff-none", "layer-8", "threshold-0.05", "direct-class-aware"}
    assert arms["threshold-0.05"]["same_as"] == "default"
    assert arms["threshold-0.05"]["values"] == arms["default"]["values"]
    assert arms["layer-8"]["changes"] == {"feature_strides": [8]}
    assert content["missing"] == []
    assert content["settings"]["folds"] == 1 and content["settings"]["steps"] == 3
    one = arms["layer-8"]
    assert one["seeds"] == [0, 1]
    for metric in results.METRICS:
        a, b = one["values"][metric]
        c, d = arms["default"]["values"][metric]
        if None not in (a, b, c, d):
            assert one["mean"][metric] == pytest.approx((a + b) / 2)
            assert one["std"][metric] == pytest.approx(abs(a - b) / 2**0.5)
            assert one["difference"][metric]["mean"] == pytest.approx((a + b - c - d) / 2)
    assert len(content["baselines"]) == 4
    text = (bench.out / "ablation.md").read_text()
    assert "| layer-8 | regions at stride 8 | 2 |" in text
    assert "(= default)" in text

    bench.forget()
    again = bench("--arms", "sff-none,threshold-0.05,layer-8", "--seeds", "0,1", "--json")
    assert json.loads(again.out) == content and bench.forget() == []
    # More arms and another seed: what is there stays in the table.
    more = json.loads(bench("--arms", "no-hiding", "--seeds", "2", "--json").out)
    assert bench.forget() == ["default/seed2", "no-hiding/seed2"]
    assert more["arms"]["layer-8"]["seeds"] == [0, 1]
    assert more["arms"]["default"]["seeds"] == [0, 1, 2]
    assert more["arms"]["layer-8"]["difference"]["AP"]["seeds"] == [0, 1]

    changed = bench("--arms", "no-hiding", "--seeds", "2", "--steps", "4")
    assert changed.code == 1 and "settings.steps: 3 → 4" in changed.err
    assert "--overwrite" in changed.err and bench.forget() == []
    assert bench("--arms", "no-hiding", "--seeds", "2", "--steps", "4", "--overwrite").code == 0
    assert bench.forget() == ["default/seed2", "no-hiding/seed2"]


@pytest.mark.slow
def test_an_arm_that_was_cut_off_is_resumed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off between training and scoring, the training is not done again."""
    import relabel.evaluation.transfer as scoring

    real, calls = scoring.evaluate_transfer, 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # four baselines and the first arm are scored
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(scoring, "evaluate_transfer", dies)
    cut = bench("--arms", "sff-none")
    assert cut.code == 130
    assert bench.forget() == ["default/seed0", "sff-none/seed0"]
    listed = bench("--arms", "sff-none", "--dry-run").out
    assert listed.splitlines() == [
        "default                      seed 0  done",
        "sff-none                     seed 0  partial",
        f"1 of 2 trainings to run in {bench.out}",
    ]
    monkeypatch.setattr(scoring, "evaluate_transfer", real)
    assert bench("--arms", "sff-none", "--quiet").code == 0
    assert bench.forget() == []
    assert not (bench.out / "arms" / "sff-none" / "seed0" / "lat").exists()
    arms = json.loads((bench.out / "ablation.json").read_text())["arms"]
    assert arms["sff-none"]["seeds"] == [0]
    assert arms["sff-none"]["std"]["AP"] is None


def test_mistakes_are_one_line(bench: Bench, workspace: Workspace, tmp_path: Path) -> None:
    cases = [
        (("--simulate", "losse"), 1, "Did you mean 'loose'"),
        (("--arms", "sfff"), 1, "Did you mean 'sff'"),
        (("--arms", "other-backbone"), 1, "--other-backbone"),
        (("--seeds", "a"), 2, "whole numbers"),
        (("--run", str(tmp_path)), 1, "not a workspace of `relabel align`"),
        (("--arms", "sff", "--backbone", "specialist"), 1, "relabel align"),
    ]
    for args, code, text in cases:
        done = bench(*args)
        assert (done.code, "Traceback" in done.err) == (code, False), done.err
        assert text in done.err
    assert bench.trained == []


def test_labels_in_a_shared_folder(bench: Bench, workspace: Workspace, tmp_path: Path) -> None:
    shared, run = tmp_path / "shared", tmp_path / "run"
    shutil.copytree(workspace.run / "2_crosslabels", shared / "2_crosslabels")
    shutil.copytree(workspace.run / "3_lat", run / "3_lat")
    missing = bench("--run", str(run), "--dry-run")
    assert missing.code == 1 and "--shared" in missing.err
    found = bench("--run", str(run), "--shared", str(shared), "--arms", "sff", "--dry-run")
    assert found.code == 0, found.err
    assert len(found.out.splitlines()) == 5  # the default, three that differ, and the sum
    assert read_align_run(run, shared).specialist == shared / "1_specialists" / "tight_fold1"


def test_another_dataset_than_the_workspace_s_is_refused(bench: Bench, tmp_path: Path) -> None:
    content = json.loads((bench.workspace.root / "tight.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    config = (bench.workspace.root / "relabel.toml").read_text()
    moved = tmp_path / "relabel.toml"
    root = bench.workspace.root
    moved.write_text(
        config.replace("../../tight.json", str(other))
        .replace('"photos', f'"{root}/photos')
        .replace("../../loose.json", str(root / "loose.json"))
    )
    done = bench("--arms", "sff-none", "-C", str(moved))
    assert done.code == 1 and "'tight' is not the one" in done.err
