"""Names of classes and files are data: whatever they hold, it is shown, never obeyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relabel.cli import main
from relabel.errors import DataError, shown
from relabel.evaluation.tables import markdown
from relabel.reports.page import table
from tests.builders.datasets import edit_json

NAMES = [
    "[/x]",
    "[bold]b[/bold]",
    ":car:",
    "\x1b[31mred\x1b[0m",
    "a\rb\x07",
    "line\nok: 0 errors, 0 warnings",
    "\u202egnp.exe",
    "\x9b2J",
    "\x7f",
    "<script>alert(1)</script>",
    "$\\frac$",
    "naïve 車 😀",
    "{0} %s",
]
OBEYED = "\x1b\r\x07\x9b\x7f\u202e"


@pytest.fixture
def odd(coco_set) -> Path:
    root = coco_set("a", [f"c{i}" for i in range(len(NAMES))])

    def rename(data: Any) -> None:
        for row, name in zip(data["categories"], NAMES, strict=True):
            row["name"] = name
        for row in data["annotations"]:
            row["bbox"][0] = row["category_id"]

    edit_json(root / "train.json", rename)
    return root


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_shown_keeps_what_prints() -> None:
    assert shown("naïve 車 😀 [/x] $x$") == "naïve 車 😀 [/x] $x$"
    assert shown("a\x1b[2J\n\u202e\udc80") == "a\\x1b[2J\\n\\u202e\\udc80"
    assert str(DataError("x\x1b", file="a\x07", record="\u202e", remedy="\udc80 y")) == (
        "a\\x07, \\u202e: x\\x1b. \\udc80 y"
    )


def test_tables_show_every_name_as_it_is_written(capsys, odd: Path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = run(capsys, "datasets", "describe", odd, "--format", "coco")
    assert (status, err) == (0, "")
    assert not set(OBEYED) & set(out)
    for name in NAMES:
        assert f" {shown(name)} " in out, name


def test_json_escapes_and_stays_the_same_value(capsys, odd: Path) -> None:
    status, out, _ = run(capsys, "datasets", "describe", odd, "--format", "coco", "--json")
    assert status == 0
    assert not set(OBEYED) & set(out)
    assert list(json.loads(out)["categories"]) == NAMES
    assert "naïve 車" in out


def test_errors_warnings_and_validate_are_escaped(capsys, odd: Path) -> None:
    def change(data: Any) -> None:
        data["images"][0]["file_name"] = "images/\x1b[2J\n\u202e.png"
        data["images"][1]["file_name"] = "images/[/x].png"
        data["annotations"][0]["bbox"] = [60, 40, 10, 10]

    edit_json(odd / "train.json", change)
    for args in (["validate"], ["describe"], ["convert", "--to", "yolo", "--out", str(odd / "o")]):
        _, out, err = run(capsys, "datasets", *args, odd, "--format", "coco")
        assert not set(OBEYED) & set(out + err), args
        assert "MarkupError" not in err and "Traceback" not in err
    status, out, _ = run(capsys, "datasets", "validate", odd, "--format", "coco")
    assert status == 1
    assert "\\x1b[2J\\n\\u202e.png" in out
    # A name cannot forge a line of its own.
    assert [line.partition(":")[0] for line in out.splitlines()[:-1]] == (
        ["error"] * out.count("\nerror:") + ["error"] + ["warning"] * out.count("\nwarning:")
    )


def test_unknown_names_are_quoted_in_errors(capsys, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("car: bus\n")
    convert = ["datasets", "convert", odd, "--format", "coco", "--to", "coco", "--out"]
    status, _, err = run(capsys, *convert, tmp_path / "o.json", "--map", tmp_path / "map.yaml")
    assert status == 1 and err.count("\n") == 1
    assert not set(OBEYED) & set(err)


def test_pages_and_markdown_hold_no_markup_of_names() -> None:
    page = table(["class", "n"], [[name, 1] for name in NAMES])
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert not set(OBEYED) & set(page)
    lines = markdown((["class"], [[name] for name in NAMES])).splitlines()
    assert len(lines) == len(NAMES) + 2


def test_a_dollar_in_a_name_begins_no_formula(tmp_path: Path) -> None:
    from relabel.reports.charts import new_figure, save_figure

    figure, axes = new_figure(3, 3)
    axes.set_yticks([0, 1], ["$\\frac$", "a $ b $ c"])
    axes.set_title("$\\nope{$")
    axes.annotate("$\\frac$", (0.5, 0.5))
    axes.text(0, 0, "車 $\\x$")
    assert all(file.stat().st_size > 1000 for file in save_figure(figure, tmp_path / "plot"))


def test_undecodable_folders_are_one_line(capsys, coco_set, tmp_path: Path) -> None:
    """A COCO file cannot state where its images are if that is no text."""
    root = coco_set("a", ["car"])
    folder = tmp_path / "b\udcff"
    root.rename(folder)
    status, out, err = run(capsys, "datasets", "describe", folder, "--format", "coco", "--json")
    assert (status, err, json.loads(out)["boxes"]) == (0, "", 4)
    convert = ["datasets", "convert", folder, "--format", "coco", "--to", "coco", "--out"]
    status, _, err = run(capsys, *convert, tmp_path / "o.json")
    assert status == 1 and err.count("\n") == 1 and "\\udcff" in err
    assert "unexpected" not in err
