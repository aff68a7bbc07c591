"""The real command line of align over fake models; see `fakes`."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from relabel.cli import main
from relabel.lat.settings import LatSettings
from tests.builders import fakes
from tests.builders.pages import ParsedPage

FAKES = Path(fakes.__file__)
MakeSet = Callable[..., Path]


class Done(NamedTuple):
    stdout: str
    stderr: str


class World:
    """Three COCO sets, a relabel.toml, and the command that runs align on them."""

    def __init__(self, folder: Path, coco_set: MakeSet, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.log = folder / "calls.log"
        for name, classes, images in (
            ("fine", ["car", "bus"], 6),
            ("coarse", ["vehicle"], 4),
            ("legacy", ["auto", "lorry"], 3),
        ):
            coco_set(name, classes, images, folder=folder)
        tables = [
            f'[datasets.{name}]\nformat = "coco"\nroot = "{name}"\ntrain = "train.json"\n'
            for name in ("fine", "coarse", "legacy")
        ]
        tables.append("[lat]\nfolds = 2\n[align]\npictures = 2\n")
        (folder / "relabel.toml").write_text("".join(tables))

    def arguments(self, *args: str) -> list[str]:
        sources = [] if "--sources" in args else ["--sources", "coarse,legacy"]
        return ["align", "--target", "fine", *sources, *args]

    def run(self, *args: str, status: int = 0) -> Done:
        """Run in this process."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(self.arguments(*args))
        out, err = self.capsys.readouterr()
        done = Done(str(out), str(err))
        assert ended.value.code == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def start(self, *args: str, delay: float) -> subprocess.Popen[str]:
        """Start in a process that can be killed."""
        command = [sys.executable, str(FAKES), *self.arguments(*args)]
        env = os.environ | {"FAKE_DELAY": str(delay)}
        return subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def calls(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def world(
    tmp_path: Path,
    coco_set: MakeSet,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    world = World(tmp_path, coco_set, capsys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAKE_LOG", str(world.log))
    fakes.install(
        lambda name, module: monkeypatch.setitem(sys.modules, name, module), monkeypatch.setattr
    )
    return world


def result_bytes(out: Path) -> dict[str, bytes]:
    """Every JSON file of a result, by relative name."""
    result = out / "result"
    return {p.relative_to(result).as_posix(): p.read_bytes() for p in result.rglob("*.json")}


def test_whole_run_and_its_files(world: World) -> None:
    done = world.run("--json")
    said = done.stderr.splitlines()
    assert said[0] == "Takes about 16 minutes."
    assert said[1] == "[1/16] running specialist fine (about 16 minutes left)"
    calls = world.calls()
    # Three specialists, two of them cross-fitted on fine; every pair of datasets labelled.
    assert calls[:5] == [
        f"train {n}" for n in ("fine 6", "fine 3", "fine 3", "coarse 4", "legacy 3")
    ]
    assert sorted(calls[5:13]) == sorted(
        [f"label {on} by {by}" for on, by in (("fine", "coarse"), ("fine", "legacy"))]
        + ["label fine by fine"] * 2
        + [f"label coarse by {by}" for by in ("fine and 2 more", "legacy")]
        + [f"label legacy by {by}" for by in ("fine and 2 more", "coarse")]
    )
    assert calls[13:] == [
        "lat fine",
        "transfer coarse with fine,legacy",
        "transfer legacy with coarse,fine",
    ]
    out = world.folder / "runs" / "fine"
    lat = json.loads((out / "3_lat" / "lat.json").read_text())
    assert "fine on fine: 6" in lat["labels"]  # merged over the folds, every image covered

    coarse = json.loads((out / "result" / "coarse" / "annotations.json").read_text())
    assert [c["name"] for c in coarse["categories"]] == ["car", "bus"]
    first = coarse["annotations"][0]
    assert first["bbox"] == [4.0, 5.0, 9.0, 6.0] and first["category_id"] == 1
    assert first["relabel"]["source_dataset"] == "coarse"
    assert first["relabel"]["source_category"] == "vehicle"
    assert first["relabel"]["source_annotation_id"] == 1
    assert coarse["images"][0]["file_name"] == "images/000.png"
    root = out / "result" / "coarse" / coarse["info"]["relabel"]["root"]
    assert (root / coarse["images"][0]["file_name"]).is_file()

    merged = json.loads((out / "result" / "merged.json").read_text())
    assert len(merged["images"]) == 6 + 4 + 3
    assert len(merged["annotations"]) == 12 + 4 + 6
    assert [i["id"] for i in merged["images"]] == list(range(1, 14))
    assert [a["id"] for a in merged["annotations"]] == list(range(1, 23))
    assert all((out / "result" / i["file_name"]).is_file() for i in merged["images"])
    of_coarse = {i["id"] for i in merged["images"] if i["dataset"] == "coarse"}
    assert sum(a["image_id"] in of_coarse for a in merged["annotations"]) == 4

    manifest = json.loads((out / "result" / "manifest.json").read_text())
    assert manifest["target"] == "fine" and manifest["boxes"]["coarse"] == 4
    assert str(world.folder) not in json.dumps(manifest)
    of_vehicles = {"renamed and reshaped": 4, "doubtful": 0} | dict.fromkeys(
        ("kept", "renamed", "reshaped", "split", "merged", "dropped"), 0
    )
    assert manifest["changes"]["coarse"] == {"classes": {"vehicle": of_vehicles}, "added": 0}
    assert json.loads(done.stdout)["changes"] == manifest["changes"]
    report = ParsedPage((out / "result" / "report.html").read_text())
    report.check()
    assert "report.html" not in manifest["files"] and "merged.json" in manifest["files"]
    # What comes first, how far the specialist can be trusted, and by which command.
    assert report.rows[1:3] == [[name, "nothing was dropped", "·"] for name in manifest["sources"]]
    assert "Specialist of the target" in report.texts
    (command,) = (text for text in report.texts if text.startswith("relabel "))
    assert "--target fine --sources" in command
    assert any(row[0] == "LAT" for row in report.rows[-200:])  # seconds by stage
    samples = json.loads((out / "result" / "coarse" / "fiftyone" / "samples.json").read_text())
    assert set(samples["samples"][0]) >= {"transferred", "source", "pseudo_fine", "pseudo_legacy"}
    assert json.loads(done.stdout)["merged"] == "runs/fine/result/merged.json"


def test_merged_loads_in_pycocotools(world: World) -> None:
    from pycocotools.coco import COCO

    world.run("--sources", "coarse", "--quiet")
    merged = COCO(str(world.folder / "runs" / "fine" / "result" / "merged.json"))
    assert len(merged.getAnnIds(catIds=[1])) == 6 + 4


def test_a_second_run_does_nothing_and_imports_no_torch(world: World) -> None:
    world.run()
    world.calls()
    before = result_bytes(world.folder / "runs" / "fine")
    done = world.run()
    assert world.calls() == []
    assert "done already" in done.stderr
    assert "relabel view runs/fine" in done.stderr
    lines = done.stdout.splitlines()
    assert any("vehicle" in line and " 4 " in line for line in lines)
    assert "added, labels of objects without an annotation: 0" in lines
    assert result_bytes(world.folder / "runs" / "fine") == before
    code = (
        "import sys, relabel.cli\n"
        "try: relabel.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'fiftyone', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *world.arguments()], check=True)


def test_dry_run_prints_the_plan_and_writes_nothing(world: World) -> None:
    done = world.run("--dry-run")
    assert "specialist fine without fold 2 of 2  to do" in done.stdout
    assert "16 of 16 stages to run in runs/fine" in done.stdout
    assert re.search(r"\n39 images in \d+ shards, by .+\ntakes about .+\nwrites", done.stdout)
    assert not (world.folder / "runs").exists()
    plan = json.loads(world.run("--dry-run", "--json").stdout)
    assert [s["stage"] for s in plan["stages"]][-1] == "result"
    # Thirteen images: the target's labelled by three specialists, the sources' by two others and
    # transferred. A second each, and their maps of a kilobyte.
    assert plan["images"] == 39 and plan["shards"] == 9
    assert plan["bytes"] > 13_000 and plan["seconds"] > 39


def test_changed_settings_are_refused_and_overwrite_redoes_what_depends_on_them(
    world: World,
) -> None:
    world.run()
    world.calls()
    refused = world.run("--lat-epochs", "3", status=1)
    assert refused.stderr.count("\n") == 1
    assert f"settings.epochs: {LatSettings().epochs} → 3.0" in refused.stderr
    assert "(3 stages after it would follow)" in refused.stderr
    assert "--overwrite" in refused.stderr and "--out" in refused.stderr
    assert world.calls() == []
    world.run("--lat-epochs", "3", "--overwrite")
    assert [c.split()[0] for c in world.calls()] == ["lat", "transfer", "transfer"]


def test_changed_data_redo_only_what_depends_on_them(world: World) -> None:
    world.run()
    world.calls()
    file = world.folder / "legacy" / "train.json"
    data = json.loads(file.read_text())
    data["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(data))
    assert "inputs.train" in world.run(status=1).stderr
    world.run("--overwrite")
    # The images of legacy are as before: the others' labels on them stay.
    assert world.calls() == [
        "train legacy 3",
        "label fine by legacy",
        "label coarse by legacy",
        "lat fine",
        "transfer coarse with fine,legacy",
        "transfer legacy with coarse,fine",
    ]


def test_removed_intermediate_stages_are_not_redone_for_nothing(world: World) -> None:
    world.run()
    world.calls()
    shutil.rmtree(world.folder / "runs" / "fine" / "1_specialists")
    world.run()
    assert world.calls() == []
    (world.folder / "runs" / "fine" / "result" / "merged.json").unlink()
    world.run()
    assert world.calls() == []  # written again from the transferred boxes
    assert (world.folder / "runs" / "fine" / "result" / "merged.json").is_file()


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(world: World) -> None:
    world.run("--out", "whole")
    expected = result_bytes(world.folder / "whole")
    assert len(expected) >= 8
    rng = random.Random(7)
    kills = 0
    while kills < 12:
        process = world.start("--out", "killed", delay=0.05)
        assert process.stderr is not None
        if process.stderr.readline().startswith("Takes"):
            process.stderr.readline()  # the first stage of this run has started
        time.sleep(rng.random() * 0.4)
        process.kill()
        if process.wait() == 0:
            break
        kills += 1
    world.run("--out", "killed")
    assert kills >= 2
    assert result_bytes(world.folder / "killed") == expected


def test_interrupt_says_how_to_go_on(world: World) -> None:
    process = world.start(delay=30)
    assert process.stderr is not None
    process.stderr.readline()  # how long it takes
    process.stderr.readline()  # the first stage has started
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stderr.read().strip() == "relabel: interrupted; the same command resumes"
    assert process.wait() == 130
    world.run()


def test_unknown_and_doubled_names(world: World) -> None:
    error = world.run("--sources", "coarze", status=1).stderr
    assert "no dataset is called 'coarze'" in error and "Did you mean 'coarse'?" in error
    assert "named twice" in world.run("--sources", "fine", status=1).stderr


def test_a_missing_image_is_told_before_any_training(world: World) -> None:
    (world.folder / "coarse" / "images" / "002.png").unlink()
    error = world.run(status=1).stderr
    assert "002.png" in error and "image 3 of coarse" in error
    assert world.calls() == []


def test_skip_bad_leaves_unreadable_images_out_and_lists_them(world: World) -> None:
    image = world.folder / "coarse" / "images" / "002.png"
    image.write_bytes(image.read_bytes()[:40])
    done = world.run("--skip-bad", "--sources", "coarse")
    assert "skipped" in done.stderr and "002.png" in done.stderr
    result = world.folder / "runs" / "fine" / "result" / "coarse" / "annotations.json"
    assert len(json.loads(result.read_text())["images"]) == 3
    again = world.run("--skip-bad", "--sources", "coarse")
    assert "002.png" in again.stderr and "done already" in again.stderr
