"""Settings on the command line: options, ``--set``, relabel.toml, ``relabel settings``, pages."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import relabel.cli
from relabel.catalogue.catalogue import SETTINGS_TABLES
from relabel.detectors.settings import SpecialistSettings
from relabel.errors import ConfigError, RelabelError
from relabel.lat.settings import LatSettings
from relabel.settings import Settings

options = importlib.import_module("relabel.commands._options")
sections = importlib.import_module("relabel.commands._sections")
docs = importlib.import_module("relabel.commands._docs")
SHOWN = {
    "Training": (
        ("--epochs", "specialist.epochs"),
        ("--preset", "specialist.preset"),
        ("--pretrained/--no-pretrained", "specialist.pretrained"),
        ("--backbone", "specialist.backbone lat.backbone", "Both."),
    )
}


def given(folder: Path, *args: str, toml: str = "") -> Any:
    """What a command with the sections specialist and lat finds in its settings."""
    file = folder / "relabel.toml"
    file.write_text(toml)
    found: list[Any] = []

    @click.command()
    @options.settings_options(("specialist", "lat"), SHOWN)
    def command(given: Any) -> None:
        found.append(given)

    result = CliRunner().invoke(
        command, ["-C", str(file), *args], standalone_mode=False, obj=relabel.cli.State()
    )
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    toml = "[specialist]\nepochs = 5\nsteps = 7\n[lat]\nfolds = 2\n[runtime]\nworkers = 3\n"
    args = ["--epochs", "3", "--set", "lat.fusion=plain", "--set", "specialist.scale_jitter=1,2"]
    made = given(tmp_path, *args, "--no-pretrained", "--set", "specialist.flip=0", toml=toml)
    specialist = made.of(SpecialistSettings, "specialist")
    expected = SpecialistSettings(
        epochs=3.0, steps=7, scale_jitter=(1.0, 2.0), pretrained=False, flip=0.0
    )
    assert specialist == expected and repr(specialist.epochs) == "3.0"
    assert made.of(LatSettings, "lat") == LatSettings(folds=2, fusion="plain")
    assert (made.runtime.workers, made.runtime.seed) == (3, None)
    # What an option and --set both give is --set's.
    both = given(tmp_path, "--epochs", "3", "--set", "specialist.epochs=4")
    assert both.of(SpecialistSettings, "specialist").epochs == 4


def test_values_under_and_over_the_file(tmp_path: Path) -> None:
    made = given(tmp_path, "--set", "lat.folds=8", toml="[lat]\nsteps = 7\nepochs = 3\n")
    found = made.of(LatSettings, "lat", under={"steps": 1, "lr": 1}, over={"epochs": 9, "folds": 1})
    assert (found.steps, found.lr, found.epochs, found.folds) == (7, 1.0, 9.0, 8)


def test_one_seed_for_all_unless_one_says_so(tmp_path: Path) -> None:
    made = given(tmp_path, "--set", "lat.seed=2", toml="[runtime]\nseed = 5\n")
    assert made.of(SpecialistSettings, "specialist").seed == 5
    assert made.of(LatSettings, "lat").seed == 2
    assert given(tmp_path, "--seed", "3").of(LatSettings, "lat").seed == 3


def test_networks_are_relative_to_where_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "net").mkdir(parents=True)
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    toml = '[specialist]\nbackbone = "net"\n'
    made = given(tmp_path, "--set", "lat.backbone=net", toml=toml)
    assert made.of(SpecialistSettings, "specialist").backbone == str(tmp_path / "net")
    assert made.of(LatSettings, "lat").backbone == str(tmp_path / "here" / "net")
    both = given(tmp_path, "--backbone", "net", toml=toml)
    for cls, name in ((SpecialistSettings, "specialist"), (LatSettings, "lat")):
        assert both.of(cls, name).backbone == str(tmp_path / "here" / "net")
    (tmp_path / "here" / "specialist").mkdir()
    assert given(tmp_path).of(LatSettings, "lat").backbone == "specialist"
    with pytest.raises(ConfigError, match=r"no such backbone folder\. Check lat\.backbone"):
        given(tmp_path, "--set", "lat.backbone=./gone")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lat.min_scor=0.5", r"\[lat\] unknown setting 'min_scor' \(did you mean 'min_score'"),
        ("latt.min_score=0.5", "no section 'latt'. Did you mean 'lat'"),
        ("maskcut.tau=0.5", "uses only the sections specialist, lat, runtime"),
        ("lat.min_score=2", "min_score is '2' and must be a number from 0 to 1"),
        ("lat.fusion=plane", r"class_aware, plain or none \(did you mean 'plain'"),
        ("min_score=0.5", "is not SECTION.KEY=VALUE"),
        ("lat.min_score", "is not SECTION.KEY=VALUE"),
    ],
)
def test_mistakes_in_set(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(click.BadParameter, match=expected):
        given(tmp_path, "--set", text)


def test_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter) as typed:
        given(tmp_path, "--set", "lat.folds=0", "--set", "x.y=1", "--set", "lat.lr=fast")
    assert all(t in str(typed.value.message) for t in ("folds is '0'", "section 'x'", "lr is"))
    with pytest.raises(ConfigError) as written:
        given(tmp_path, toml="[lat]\nfolds = 0\nlrr = 1\n[runtime]\nworkers = -2\n")
    text = str(written.value)
    assert "relabel.toml" in text
    assert all(t in text for t in ("[lat] folds is 0", "'lrr'", "[runtime] workers is -2"))


def test_an_option_checks_its_value(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="'-1' is not a number of 0 or more"):
        given(tmp_path, "--epochs", "-1")
    with pytest.raises(click.BadParameter, match=r"light or standard \(did you mean 'light'"):
        given(tmp_path, "--preset", "ligth")


def _commands() -> list[tuple[str, click.Command]]:
    return list(docs._walk(relabel.cli.cli, "relabel"))


@pytest.mark.parametrize(
    ("path", "command"), _commands(), ids=lambda x: x if type(x) is str else ""
)
def test_help_fits_on_a_page(path: str, command: click.Command) -> None:
    ctx = click.Context(command, info_name=path, terminal_width=80, max_content_width=80)
    lines = command.get_help(ctx).splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80


def test_every_section_has_a_table_and_a_help_text_for_every_setting() -> None:
    assert {*sections.SECTIONS, "protocol"} == set(SETTINGS_TABLES)
    for name, section in sections.SECTIONS.items():
        assert issubclass(section.cls, Settings), name
        assert section.cls() == section.cls()  # defaults fit their own types
        assert all(f.metadata["help"] for f in section.fields.values()), name
    for key in sections.NETWORKS:
        section, _, field = key.partition(".")
        assert field in sections.SECTIONS[section].fields


def test_advice_names_options_and_settings_that_exist() -> None:
    known = {
        name
        for _, command in _commands()
        for param in command.params
        for name in (*param.opts, *param.secondary_opts)
    }
    advised = {"options": set(), "settings": set()}
    rooms = Path(relabel.cli.__file__).parent
    for file in set(rooms.rglob("*.py")) - set((rooms / "reports").iterdir()):  # has CSS
        text = file.read_text(encoding="utf-8")
        found = re.findall(r"[\s(`](--[a-z][a-z-]+)", text)
        advised["options"] |= set(found)
        advised["settings"] |= set(re.findall(r"--set ([a-z0-9_]+\.[a-z0-9_]+)", text))
    assert "--skip-bad" in advised["options"] and "lat.folds" in advised["settings"]
    others = {"--head", "--nproc-per-node", "--upgrade"}  # of ray, torchrun and pip
    assert advised["options"] - known <= {"--help", "--version", *others}
    for key in advised["settings"]:
        section, _, field = key.partition(".")
        assert field in sections.SECTIONS[section].fields, key


def test_a_training_without_bounds_names_its_own_setting(tmp_path: Path) -> None:
    import torch

    from relabel.settings import Runtime
    from relabel.training.loop import fit

    for name in ("specialist", "lat", "classifier", "detector"):
        settings = sections.SECTIONS[name].cls(precision="auto", lr=0.003)
        settings = settings.training if name == "lat" else settings
        with pytest.raises(
            RelabelError, match=rf"--set {name}\.lr=0\.001, or .*{name}\.precision=fp32"
        ):
            fit(
                torch.nn.Linear(1, 1),
                lambda step: torch.full((1, 1), torch.inf),
                lambda model, x: {"loss": model(x).sum()},
                steps=1,
                out=tmp_path / name,
                settings=settings,
                runtime=Runtime(device="cpu", quiet=True),
                description="",
            )


def test_settings_are_listed() -> None:
    def run(*args: str) -> Any:
        return CliRunner().invoke(relabel.cli.cli, ["settings", *args])

    text = run().output
    assert all(f"[{name}]" in text for name in sections.SECTIONS)
    one = run("maskcut").output
    assert "tau = 0.5   (a number from -1 to below 1)" in one and "[lat]" not in one
    found = json.loads(run("--json").output)
    assert list(found) == list(sections.SECTIONS)
    rows = {row["name"]: row for row in found["lat"]["settings"]}
    assert rows["min_score"] == {
        "name": "min_score",
        "default": 0.05,
        "type": "a number from 0 to 1",
        "ge": 0,
        "le": 1,
        "help": "Pseudo-labels below this confidence are no proposals.",
    }
    assert rows["fusion"]["choices"] == ["class_aware", "plain", "none"]
    wrong = run("region_clasifier")
    assert wrong.exit_code == 2 and "Did you mean 'region_classifier'" in wrong.output


def test_the_shell_completes_keys_and_choices() -> None:
    def complete(*args: str) -> list[str]:
        done = ShellComplete(relabel.cli.cli, {}, "relabel", "_RELABEL_COMPLETE")
        return [item.value for item in done.get_completions(list(args[:-1]), args[-1])]

    assert complete("align", "--set", "lat.min") == ["lat.min_score="]
    assert complete("align", "--lat-preset", "p") == ["paper"]
    assert "settings" in complete("s")


def test_pages_of_the_docs_are_fresh(tmp_path: Path) -> None:
    folder = Path(relabel.cli.__file__).parent.parent / "docs"
    if not folder.is_dir():
        pytest.skip("relabel is not installed from a checkout")
    subprocess.run([sys.executable, "-m", "relabel.commands._docs", str(tmp_path)], check=True)
    for page in tmp_path.iterdir():
        stale = page.read_text() != (folder / page.name).read_text()
        assert not stale, f"docs/{page.name} is stale: run `make docs`"
