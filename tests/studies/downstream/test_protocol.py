"""Protocols: the table [protocol], and the files in benchmarks/protocols."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from relabel.commands._options import Given  # pyright: ignore[reportMissingImports]
from relabel.commands.evaluate_downstream import (  # pyright: ignore[reportMissingImports]
    detector_settings,
)

from relabel.align.settings import AlignSettings
from relabel.catalogue.catalogue import Catalogue, load_catalogue
from relabel.crosslabel.settings import CrossLabelSettings
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import NameMap
from relabel.detectors.semi.settings import SemiSettings
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError
from relabel.lat.settings import LatSettings
from relabel.settings import settings_from
from relabel.studies.downstream.arms import ARMS
from relabel.studies.downstream.protocol import (
    Protocol,
    Schedule,
    read_protocol,
    with_size,
)
from relabel.studies.downstream.settings import DownstreamSettings
from relabel.training.loop import total_steps

ROOT = Path(__file__).resolve().parents[3]
# These are other studies'.
FILES = sorted(
    file
    for file in (ROOT / "benchmarks" / "protocols").glob("*.toml")
    if not file.stem.startswith(("check", "completion", "lat_specialists", "semi_supervised"))
)
DATASETS = "".join(
    f'[datasets.{name}]\nformat = "coco"\nroot = "{name}"\ntest = "test.json"\n' for name in "abc"
)
SETTINGS = {
    "align": AlignSettings,
    "crosslabel": CrossLabelSettings,
    "detector": SpecialistSettings,
    "downstream": DownstreamSettings,
    "lat": LatSettings,
    "semi": SemiSettings,
    "specialist": SpecialistSettings,
}


def catalogue(folder: Path, text: str, datasets: str = DATASETS) -> Catalogue:
    file = folder / "p.toml"
    file.write_text(f"{datasets}\n{text}", encoding="utf-8")
    return load_catalogue(config=file)


def test_defaults(tmp_path: Path) -> None:
    found = read_protocol(catalogue(tmp_path, '[protocol]\ntargets = ["a", "b", "c"]\n'))
    arms = tuple(ARMS)
    assert found == Protocol(
        title="a/b/c",
        targets=("a", "b", "c"),
        sources={"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")},
        arms=arms,
        seeds=(0, 1, 2),
        detectors=("faster-rcnn",),
        schedules={"standard": Schedule(1.0, arms)},
        extra={},
    )
    assert [run.folder for run in found.runs()] == [f"{t}/faster-rcnn/standard" for t in "abc"]


FULL = """
[protocol]
title = "T"
targets = ["a", "b"]
arms = ["lat", "naive"]
seeds = [3, 1, 3]
detectors = ["rt-detr"]
[protocol.sources]
b = ["c"]
[protocol.schedules.short]
[protocol.schedules.long]
factor = 2
arms = ["lat"]
[protocol.extra.a]
oracle = "x/o.json"
[protocol.maps.b]
c = "c.yaml"
[protocol.sizes.small]
seeds = [0]
lat = { image_size = 64 }
[specialist]
epochs = 3
[lat]
epochs = 4
image_size = 100
"""


def test_everything(tmp_path: Path) -> None:
    found = read_protocol(catalogue(tmp_path, FULL))
    assert found.sources == {"a": ("b",), "b": ("c",)}
    assert found.seeds == (3, 1)
    assert found.schedules == {
        "short": Schedule(1.0, ("lat", "naive")),
        "long": Schedule(2.0, ("lat",)),
    }
    runs = found.runs()
    assert [(r.target, r.sources, r.schedule, r.factor, r.arms) for r in runs] == [
        ("a", ("b",), "short", 1.0, ("lat", "naive")),
        ("b", ("c",), "short", 1.0, ("lat", "naive")),
        ("a", ("b",), "long", 2.0, ("lat",)),
        ("b", ("c",), "long", 2.0, ("lat",)),
    ]
    assert [r.extra for r in runs[:2]] == [{"oracle": (tmp_path / "x" / "o.json",)}, {}]
    assert [r.maps for r in runs[:2]] == [{}, {"c": tmp_path / "c.yaml"}]
    assert [r.truth for r in runs[:2]] == [{}, {}]  # whose truth a whole file is, is not said
    assert runs[2].folder == "a/rt-detr/long" and runs[2].seeds == (3, 1)


SETS = """
[protocol]
targets = ["a"]
[protocol.sources.a]
all = ["b", "c"]
one = ["b"]
other = ["c"]
[protocol.extra.a]
given = "g.json"
[protocol.extra.a.oracle]
b = "x/b.json"
[protocol.maps.a]
c = "c.yaml"
"""


def test_sets_of_sources_are_compared_one_by_one(tmp_path: Path) -> None:
    runs = read_protocol(catalogue(tmp_path, SETS)).runs()
    assert [(r.source_set, r.sources) for r in runs] == [
        ("all", ("b", "c")),
        ("one", ("b",)),
        ("other", ("c",)),
    ]
    assert [r.workspace for r in runs] == ["a/all", "a/one", "a/other"]
    assert runs[1].folder == "a/one/faster-rcnn/standard"
    given, b = (tmp_path / "g.json",), (tmp_path / "x" / "b.json",)
    with_oracle = {"given": given, "oracle": b}
    assert [r.extra for r in runs] == [with_oracle, with_oracle, {"given": given}]
    assert [r.truth for r in runs] == [{"b": b[0]}, {"b": b[0]}, {}]
    assert [list(r.maps) for r in runs] == [["c"], [], ["c"]]
    both = SETS.replace('b = "x/b.json"', 'b = "x/b.json"\nc = "c.json"')
    whole = read_protocol(catalogue(tmp_path, both)).runs()[0]
    assert whole.extra["oracle"] == (*b, tmp_path / "c.json")


def test_sizes(tmp_path: Path) -> None:
    whole = catalogue(tmp_path, FULL)
    assert list(whole.table("protocol")["sizes"]) == ["small"]
    small = with_size(whole, "small")
    assert read_protocol(small).seeds == (0,)
    assert read_protocol(small).arms == ("lat", "naive")
    assert small.table("lat") == {"epochs": 4, "image_size": 64}
    assert small.table("specialist") == {"epochs": 3}
    # The whole one is as it was.
    assert read_protocol(whole).seeds == (3, 1)
    assert whole.table("lat")["image_size"] == 100
    with pytest.raises(ConfigError, match=r"no size 'smal'.*'small'"):
        with_size(whole, "smal")
    odd = catalogue(tmp_path, FULL.replace("lat = { image_size = 64 }", "lat = 64"))
    with pytest.raises(ConfigError, match=r"\[protocol\.sizes\.small\]: lat is 64"):
        with_size(odd, "small")
    odd = catalogue(tmp_path, FULL.replace("seeds = [0]", "seed = 0"))
    with pytest.raises(ConfigError, match=r"\[protocol\.sizes\.small\].*'seed'.*'seeds'"):
        with_size(odd, "small")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", r"there is no table \[protocol\]"),
        ('[protocol]\ntarget = ["a"]\n', r"unknown setting 'target'.*'targets'"),
        ("[protocol]\nseeds = [0]\n", r"targets is \[\] and must be a list"),
        ('[protocol]\ntargets = "a"\n', r"targets is 'a' and must be a list"),
        ('[protocol]\ntargets = ["d", "a"]\n', r"no dataset is called 'd'"),
        ('[protocol]\ntargets = ["a"]\n', r"a is \[\] and must be a list"),
        (
            '[protocol]\ntargets = ["a"]\nsources = { a = ["a"] }\n',
            r"target 'a' is its own source",
        ),
        ('[protocol]\ntargets = ["a"]\nsources = { a = ["x"] }\n', r"no dataset is called 'x'"),
        ('[protocol]\ntargets = ["a", "b"]\nsources = { c = ["a"] }\n', r"unknown key 'c'"),
        ('[protocol]\ntargets = ["a", "b"]\narms = ["lta"]\n', r"unknown arm 'lta'.*'lat'"),
        ('[protocol]\ntargets = ["a", "b"]\nextra = 3\n', r"extra is 3 and must be a table"),
        ('[protocol]\ntargets = ["a", "b"]\nseeds = [-1]\n', r"seeds is \[-1\].*0 or more"),
        ('[protocol]\ntargets = ["a", "b"]\nseeds = [0.5]\n', r"seeds is \[0\.5\].*whole"),
        ('[protocol]\ntargets = ["a", "b"]\nseeds = [true]\n', r"seeds is \[True\].*whole"),
        ('[protocol]\ntargets = ["a", "b"]\nseeds = []\n', r"seeds is \[\]"),
        (
            '[protocol]\ntargets = ["a", "b"]\ndetectors = ["rtdetr"]\n',
            r"detectors is \['rtdetr'\].*rt-detr",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\nschedules = { long = { factor = 0 } }\n',
            r"\[protocol\.schedules\.long\]: factor is 0.*above 0",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\nschedules = { long = { steps = 3 } }\n',
            r"\[protocol\.schedules\.long\]: unknown setting 'steps'",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\nschedules = { long = 3 }\n',
            r"long is 3 and must be a table",
        ),
        (
            '[protocol]\ntargets = ["a"]\n[protocol.sources.a]\nall = []\n',
            r"\[protocol\.sources\.a\]: all is \[\]",
        ),
        (
            '[protocol]\ntargets = ["a"]\n[protocol.sources.a]\nall = ["b", "a"]\n',
            r"target 'a' is its own source",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\n[protocol.extra.a.o]\nc = "c.json"\n',
            r"\[protocol\.extra\.a\.o\]: unknown key 'c'",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\nextra = { a = { o = 3 } }\n',
            r"\[protocol\.extra\.a\]: o is 3 and must be text",
        ),
        (
            '[protocol]\ntargets = ["a", "b"]\nmaps = { a = { c = "m.yaml" } }\n',
            r"\[protocol\.maps\.a\]: unknown key 'c'.*Known: b",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        read_protocol(catalogue(tmp_path, text))
    assert "p.toml" in str(caught.value)


def test_target_without_test_images(tmp_path: Path) -> None:
    bare = DATASETS.replace('root = "b"\ntest = "test.json"', 'root = "b"')
    with pytest.raises(ConfigError, match=r"target 'b' names no test images.*holdout"):
        read_protocol(catalogue(tmp_path, '[protocol]\ntargets = ["a", "b"]\n', bare))


def _settings(found: Catalogue) -> dict[str, Any]:
    made = {}
    for name in found.tables:
        table = found.table(name)
        if name in SETTINGS:
            made[name] = settings_from(SETTINGS[name], table, where=f"[{name}]")
    return made


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_files_of_the_repository(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is one that is read, with a value of its type, in every size."""
    monkeypatch.delenv("RELABEL_DATASETS", raising=False)
    monkeypatch.delenv("RELABEL_SHARED", raising=False)
    whole = load_catalogue(config=file)
    for found in (
        whole,
        *(with_size(whole, size) for size in whole.table("protocol").get("sizes", ())),
    ):
        protocol = read_protocol(found)
        assert len(protocol.runs()) >= len(protocol.targets)
        settings = _settings(found)
        assert settings.get("downstream", DownstreamSettings()).target_only_last == 0.25
        assert "lat" in protocol.arms and "target-only" in protocol.arms
    assert set(tomllib.loads(file.read_text(encoding="utf-8"))) >= {"datasets", "protocol"}


@pytest.mark.parametrize("name", ["roadside", "streets"])
def test_every_arm_sees_target_and_sources_eight_times(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The length comes from the passes, not from the specialists' steps."""
    (tmp_path / "weights" / "mobilenet_v2_imagenet").mkdir(parents=True)
    monkeypatch.setenv("RELABEL_SHARED", str(tmp_path))
    whole = load_catalogue(config=next(f for f in FILES if f.stem == name))
    for found in (whole, with_size(whole, "small")):
        detector = detector_settings(Given(found), detector="faster-rcnn")
        mixed = 1 - _settings(found).get("downstream", DownstreamSettings()).target_only_last
        assert total_steps(detector, 800) * detector.batch_size * mixed >= 8 * 800
        assert detector.keeps_maps == (found is not whole)


def test_the_protocols_of_the_paper() -> None:
    by_name = {f.stem: load_catalogue(config=f) for f in FILES}
    label = by_name["label_divergence"]
    assert read_protocol(label).targets == ("cityscapes", "nuimages", "waymo")
    assert [label.get(n).selection.sample for n in ("cityscapes", "nuimages", "waymo")] == [
        0,
        3000,
        3000,
    ]
    scale = read_protocol(by_name["scale_divergence"])
    assert scale.targets == ("cityscapes", "acdc", "bdd100k", "shift")
    assert scale.schedules["long"].factor > 1
    assert scale.schedules["long"].arms == ("target-only", "lat")


@pytest.mark.parametrize("target", ["cityscapes", "nuimages", "waymo"])
def test_maps_of_the_papers_datasets(target: str) -> None:
    """Every class of the source is named, by a name it has, and becomes one that the target has."""
    protocol = read_protocol(load_catalogue(config=FILES[0].parent / "label_divergence.toml"))
    assert set(protocol.maps[target]) == set(protocol.sources[target])
    for source, file in protocol.maps[target].items():
        names = NameMap.load(file).names
        assert set(names) >= set(LabelSpace.load(source).class_names)
        assert set(names) <= set(LabelSpace.load(source).names)
        assert {n for n in names.values() if n} <= set(LabelSpace.load(target).names)


def test_tollroad_files_read(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELABEL_SHARED", str(shared))
    sizes = {
        "tollroad_label_divergence": {
            "fine": (285, 149),
            "legacy": (338, 124),
            "coarse": (255, 96),
        },
        "tollroad_scale_divergence": {
            "fine": (100, 149),
            "legacy": (338, 124),
            "coarse": (100, 96),
        },
    }
    for name, expected in sizes.items():
        found = load_catalogue(config=ROOT / "benchmarks" / "protocols" / f"{name}.toml")
        assert Path(found.table("specialist")["backbone"]).is_dir()
        for dataset, (train, test) in expected.items():
            entry = found.get(dataset)
            parts = entry.read("train"), entry.read("test")
            assert (len(parts[0]), len(parts[1])) == (train, test), dataset
            assert not set(parts[0].images.file_name) & set(parts[1].images.file_name)
            # No class is tested on that was never seen.
            seen = [set(p.boxes.category.tolist()) for p in parts]
            assert seen[1] <= seen[0], dataset
        for target, maps in read_protocol(found).maps.items():
            for source, file in maps.items():
                names = NameMap.load(file).names
                assert set(names) == set(found.get(source).read().space.class_names)
                assert set(names.values()) <= set(found.get(target).read().space.class_names)
