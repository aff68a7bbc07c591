"""``relabel imagenet-multilabel`` on a small world: squares of colours, one class per colour."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relabel.cli import main
from relabel.datasets.multilabels import read_tsv
from relabel.datasets.pixels.image_folder import read_image_set
from relabel.errors import BusyError
from relabel.multilabel.plan import MultilabelPlan, MultilabelSettings
from relabel.multilabel.run import run_plan
from relabel.multilabel.settings import LabelMapSettings, MaskCutSettings, RegionClassifierSettings
from relabel.multilabel.store import read_regions, read_scores
from relabel.settings import Runtime
from relabel.workspace.columns import iterate, shard_paths
from relabel.workspace.parts import WorkerShare
from relabel.workspace.stage import Stage
from tests.builders.colours import COLOURS, tiny_resnet
from tests.builders.datasets import write_pixels

IMAGES, SIDE = 18, 96
CLASSES = sorted(COLOURS)
FLAGS = (
    *("--classifier", "probe", "--image-size", "128", "--set", "maskcut.stride=4", "--tau", "0.9"),
    *("--max-masks", "3", "--refine", "none", "--shard-images", "5", "--filter-threshold", "0.3"),
    *(
        "--region-classifier-epochs",
        "60",
        "--set",
        "region_classifier.lr=0.003",
        "--set",
        "region_classifier.hidden=32",
    ),
    *("--device", "cpu", "--set", "maskcut.precision=fp32", "--quiet"),
)


def scene(rng: np.random.Generator, own: int, other: int) -> np.ndarray:
    """uint8 [96, 96, 3]: a large square of one colour and a small one of another on grey."""
    pixels = np.full((SIDE, SIDE, 3), 120.0)
    pixels[8:56, 8:56] = COLOURS[CLASSES[own]]
    pixels[64:92, 64:92] = COLOURS[CLASSES[other]]
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``images/<colour>/<i>.png``, the labels of both squares, and a backbone."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    both = {}
    for i in range(IMAGES):
        own, other = i % 3, (i + 1 + i // 3 % 2) % 3
        name = f"{CLASSES[own]}/{i:03d}.png"
        write_pixels(root / "images" / name, scene(rng, own, other))
        both[name] = [own, other]
    (root / "both.json").write_text(json.dumps(both))
    tiny_resnet(root / "backbone")
    return root


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["imagenet-multilabel", *[str(a) for a in args]])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    where = ["--images", str(world / "images"), "--backbone", str(world / "backbone")]
    return [*where, "--out", str(out), *FLAGS, *more]


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of one uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "labels"
    with pytest.raises(SystemExit) as caught:
        main(["imagenet-multilabel", *arguments(world, out)])
    assert not caught.value.code
    return out


@pytest.mark.slow
def test_the_second_colour_is_recovered(world: Path, whole: Path) -> None:
    both = json.loads((world / "both.json").read_text())
    labels = read_tsv(whole / "result" / "labels.tsv", 3)
    scores = labels.labels.toarray()
    present, absent = [], []
    for name, gt, row in zip(labels.file_names, labels.gt, scores, strict=True):
        own, other = both[name]
        assert gt == own and row[own] == 1.0
        present.append(row[other])
        absent.append(row[3 - own - other])
    # Chance gives both the same.
    assert np.mean(present) > np.mean(absent) + 0.3
    for file in ("labels.parquet", "confused.json", "report.html", "skipped.tsv"):
        assert (whole / "result" / file).is_file()
    page = (whole / "result" / "report.html").read_text()
    for stage in ("regions", "scores", "region_classifier", "labels"):
        assert re.search(rf'<th scope="row">{stage}</th><td class="num">[\d.]+</td>', page), stage


@pytest.mark.slow
def test_regions_are_the_squares(whole: Path) -> None:
    found = 0
    for shard in iterate(shard_paths(whole / "1_regions" / "shards"), read_regions):
        for image in range(len(shard)):
            for mask in shard.masks(image):
                assert mask.shape == (SIDE, SIDE)
                large = np.zeros((SIDE, SIDE), bool)
                large[8:56, 8:56] = True
                found += bool((mask & large).sum() / (mask | large).sum() > 0.6)
    assert found >= IMAGES * 2 // 3


@pytest.mark.slow
def test_a_second_run_does_nothing(
    world: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()}
    code, out, _ = run(capsys, *arguments(world, whole), "--json")
    assert code == 0 and json.loads(out)["done"] is True
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*") if p.is_file()} == files


@pytest.mark.slow
def test_parts_make_the_same_labels(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, *arguments(world, tmp_path / "o"), "--shard", "1/2", "--json")
    assert code == 0 and json.loads(out)["waits_for"] == "regions"
    # The second part finds all regions there and goes on until it needs the first one again.
    for part, waits in (("2/2", "scores"), ("1/2", "labels"), ("2/2", None)):
        code, out, _ = run(capsys, *arguments(world, tmp_path / "o"), "--shard", part, "--json")
        assert code == 0 and json.loads(out)["waits_for"] == waits
    for file in ("labels.tsv", "labels.parquet", "confused.json"):
        one, other = (folder / "result" / file for folder in (whole, tmp_path / "o"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bytes(world: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    command = [sys.executable, "-m", "relabel", "imagenet-multilabel", *arguments(world, out)]
    signs = [
        out / "1_regions" / "shards" / "shard-00001-of-00004.parquet",
        out / "2_scores" / "probe" / "probe.json",
        out / "3_region_classifier" / "stage.json",
        out / "4_labels" / "shards" / "shard-00000-of-00004.parquet",
    ]
    for sign in signs:  # killed as soon as a stage has got this far
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        until = time.monotonic() + 240
        while process.poll() is None and not sign.exists() and time.monotonic() < until:
            time.sleep(0.005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error.decode()
    subprocess.run(command, check=True, capture_output=True)
    for file in ("labels.tsv", "labels.parquet", "confused.json"):
        assert (out / "result" / file).read_bytes() == (whole / "result" / file).read_bytes()


@pytest.mark.slow
def test_unreadable_images_are_skipped_and_listed(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(world / "images", tmp_path / "images")
    (tmp_path / "images" / CLASSES[0] / "broken.png").write_bytes(b"no image")
    more = [a for a in arguments(world, tmp_path / "o") if a != "--quiet"]
    more[1] = str(tmp_path / "images")
    code, _, error = run(capsys, *more)
    assert code == 0 and "1 images could not be read" in error
    result = tmp_path / "o" / "result"
    name, reason = (result / "skipped.tsv").read_text().strip().split("\t")
    assert name == f"{CLASSES[0]}/broken.png" and reason
    assert len(read_tsv(result / "labels.tsv")) == IMAGES + 1


def test_changed_settings_are_refused_until_overwrite(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    shutil.copytree(whole, out)
    changed = ["--filter-threshold" if a == "--filter-threshold" else a for a in FLAGS]
    changed[changed.index("--filter-threshold") + 1] = "0.35"
    where = arguments(world, out)[: -len(FLAGS)]
    code, _, error = run(capsys, *where, *changed)
    assert code == 1 and "settings.threshold: 0.3 → 0.35" in error and "--overwrite" in error
    regions = out / "1_regions" / "shards" / "shard-00000-of-00004.parquet"
    before = regions.stat().st_mtime_ns
    code, _, _ = run(capsys, *where, *changed, "--overwrite")
    assert code == 0
    assert regions.stat().st_mtime_ns == before  # regions do not depend on the filter


def test_maps_from_files_in_either_axis_order(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A map that knows the left half from the right one scores regions by where they are."""
    logits = torch.zeros(2, 15, 15)
    logits[0, :, :8] = 9.0  # class 0 left
    logits[0, :, 8:] = -9.0
    ids = torch.stack([torch.zeros(15, 15), torch.ones(15, 15)])
    for image in (world / "images").rglob("*.png"):
        file = tmp_path / "maps" / image.relative_to(world / "images").with_suffix(".pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.stack([logits, ids]).half(), file)
    base = [a for a in arguments(world, Path("?")) if a not in ("--classifier", "probe")]
    best = {}
    for flag in ("--no-transpose-maps", "--transpose-maps"):
        out = tmp_path / flag.strip("-")
        shutil.copytree(whole / "1_regions", out / "1_regions")
        base[base.index("--out") + 1] = str(out)
        code, _, error = run(
            capsys, *base, "--maps", tmp_path / "maps", flag, "--filter-rule", "top1"
        )
        assert code == 0, error
        found = []
        for regions, scores in zip(
            iterate(shard_paths(out / "1_regions" / "shards"), read_regions),
            iterate(shard_paths(out / "2_scores" / "shards"), read_scores),
            strict=True,
        ):
            for image in range(len(regions)):
                for region, mask in zip(regions.regions(image), regions.masks(image), strict=True):
                    rows, columns = np.nonzero(mask)
                    # Regions below the diagonal are left of it once the axes are swapped.
                    found.append((columns.mean() - rows.mean(), columns.mean(), scores, region))
        left = [s.ids[r, 0] == 0 for _, x, s, r in found if x < SIDE * 0.4]
        best[flag] = np.mean(left)
    assert best["--no-transpose-maps"] > 0.9


def test_plan_errors_and_help(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    code, text, error = run(capsys, *arguments(world, out), "--dry-run")
    assert code == 0 and "5. result" in error and not out.exists()
    assert text.startswith("18 images in 4 shards, by ") and "writes about" in text
    cases = {
        "--classifier": ["--images", world / "images", "--backbone", world / "backbone"],
        "does not exist": ["--images", tmp_path / "nowhere", "--out", out],
        "Check --maps": ["--images", world / "images", "--maps", tmp_path / "nowhere"],
        "there is no part": ["--images", world / "images", "--shard", "5/4"],
        "nowhere": ["--images", world / "images", "--backbone", "./nowhere"],
    }
    for text, wrong in cases.items():
        code, _, error = run(capsys, *wrong, "--out", out, "--quiet")
        assert code == 1 and text in error and len(error.strip().splitlines()) == 1, error


def test_settings_of_relabel_toml_are_read(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = tmp_path / "relabel.toml"
    tables = (
        "[maskcut]\ntau = 0.2\n[label_maps]\ntop = 3\n[region_classifier]\nhidden = 8\n[labels]\n"
    )
    toml.write_text(tables + 'mode = "hard"\n[filter]\nthreshold = 0.5\n')
    where = [*arguments(world, tmp_path / "o"), "-C", toml]
    code, _, error = run(capsys, *where, "--dry-run")
    assert code == 0 and "5. result" in error
    # Other commands take no offence at them, this one at values that do not fit.
    with pytest.raises(SystemExit) as caught:
        main(["datasets", "list", "-C", str(toml)])
    assert not caught.value.code
    toml.write_text("[maskcut]\ntau = 2\n[filter]\ntreshold = 0.5\n")
    code, _, error = run(capsys, *where, "--dry-run")
    assert code == 1 and "relabel.toml: [maskcut] tau is 2 and must be" in error
    assert "[filter] unknown setting 'treshold' (did you mean 'threshold'?)" in error


def test_what_cannot_be_learned_is_said_before_regions_are_sought(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose, empty = tmp_path / "loose images", tmp_path / "maps"
    empty.mkdir()
    loose.mkdir()
    shutil.copy(next((world / "images").rglob("*.png")), loose / "ä b.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    net = ["--backbone", world / "backbone", "--out", tmp_path / "o", "--quiet"]
    cases = {
        "have no classes": ["--images", loose, "--classifier", "probe"],
        "no image has a label": [
            *("--images", loose, "--classifier", "probe"),
            *("--classes", tmp_path / "classes.txt", "--filter-rule", "top1"),
        ],
        "has no label map of any image": ["--images", world / "images", "--maps", empty],
    }
    for text, wrong in cases.items():
        code, out, error = run(capsys, *wrong, *net)
        assert code == 1 and text in error and not out, error
        assert not (tmp_path / "o" / "1_regions").exists()


def test_images_without_a_map_are_left_out_on_request(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maps = torch.stack([torch.full((1, 15, 15), 9.0), torch.full((1, 15, 15), 0.0)])
    names = sorted((world / "images" / CLASSES[0]).iterdir())
    for image in names[1:]:
        file = tmp_path / "maps" / CLASSES[0] / f"{image.stem}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(maps.half(), file)
    shutil.copytree(whole / "1_regions", tmp_path / "o" / "1_regions")
    base = [a for a in arguments(world, tmp_path / "o") if a not in ("--classifier", "probe")]
    code, _, error = run(capsys, *base, "--maps", tmp_path / "maps")
    assert code == 1 and "label map does not exist" in error and "--skip-bad" in error
    base.remove("--quiet")
    code, out, error = run(capsys, *base, "--maps", tmp_path / "maps", "--skip-bad", "--json")
    assert code == 0 and json.loads(out)["done"] and "no readable label map" in error
    shards = list(iterate(shard_paths(tmp_path / "o" / "2_scores" / "shards"), read_scores))
    ids = np.concatenate([shard.ids[:, 0] for shard in shards])
    assert set(ids.tolist()) == {-1, 0}
    assert len(read_tsv(tmp_path / "o" / "result" / "labels.tsv")) == IMAGES


def test_unreadable_images_only(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"no image")
    more = arguments(world, tmp_path / "o")
    more[1] = str(tmp_path / "images")
    code, _, error = run(capsys, *more)
    assert code == 1 and "no image with a label could be read" in error


def test_what_changes_a_stage(world: Path, tmp_path: Path) -> None:
    images = read_image_set(world / "images")

    def plan(**settings: Any) -> MultilabelPlan:
        return MultilabelPlan(images, tmp_path, MultilabelSettings(**settings))

    def changed(one: MultilabelPlan, other: MultilabelPlan) -> list[str]:
        return [k for k in one.stages if one.stages[k].fingerprint != other.stages[k].fingerprint]

    base = plan()
    assert not changed(base, plan(maskcut=MaskCutSettings(batch_size=3)))
    later = ["region_classifier", "labels", "result"]
    assert changed(base, plan(region_classifier=RegionClassifierSettings(batch_size=3))) == later
    maps = tmp_path / "maps"
    file = maps / Path(images.file_names[0]).with_suffix(".pt")
    file.parent.mkdir(parents=True)
    torch.save(torch.zeros(2, 1, 3, 3), file)
    one = MultilabelPlan(images, tmp_path, MultilabelSettings(), maps)
    torch.save(torch.ones(2, 1, 3, 3), file)
    other = MultilabelPlan(images, tmp_path, MultilabelSettings(), maps)
    assert changed(one, other) == ["scores", *later]


def test_only_what_is_still_read_is_made_again(world: Path, tmp_path: Path) -> None:
    plan = MultilabelPlan(read_image_set(world / "images"), tmp_path, MultilabelSettings())
    plan.status = dict.fromkeys(plan.stages, "done")
    for gone, wanted in (
        ("scores", []),
        ("labels", []),
        ("result", ["labels", "result"]),
        ("region_classifier", ["scores", "region_classifier", "labels", "result"]),
    ):
        plan.status[gone] = "missing"
        assert [stage.name for stage in plan.to_run()] == wanted


def test_a_part_that_finds_another_at_work_comes_back_later(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = MultilabelSettings(maps=LabelMapSettings(classifier="probe"))
    plan = MultilabelPlan(read_image_set(world / "images"), tmp_path, settings)

    def busy(*_: Any, **__: Any) -> None:
        raise BusyError("another process works on it")

    monkeypatch.setattr(Stage, "begin", busy)
    assert run_plan(plan, Runtime(), part=WorkerShare(0, 2)).waits_for == "regions"
    with pytest.raises(BusyError):
        run_plan(plan, Runtime())
