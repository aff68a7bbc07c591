"""Names of classes and files are data: whatever they hold, it is shown, never obeyed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from relabel.cli import main
from relabel.errors import DataError, shown
from relabel.evaluation.tables import markdown
from relabel.reports.page import table
from tests.builders.datasets import edit_json
from tests.builders.reports import HOSTILE

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
    # Joiners spell emoji, and Persian.
    for text in ("👨\u200d👩\u200d👧\n", "می\u200cخواهم\n"):
        assert shown(text) == text[:-1] + "\\n"
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


def test_messages_above_a_bar_show_names(monkeypatch) -> None:
    import io
    from types import SimpleNamespace

    from rich.console import Console

    from relabel.workspace import progress

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    monkeypatch.setattr(progress, "_live", SimpleNamespace(console=console))
    for name in (*NAMES, *HOSTILE):
        progress.message(name)
    assert stream.getvalue().splitlines() == [shown(name) for name in (*NAMES, *HOSTILE)]


def test_the_table_at_the_end_of_align_shows_names(capsys, monkeypatch) -> None:
    from relabel.commands.align import _print_changes  # pyright: ignore[reportMissingImports]

    from relabel.datasets.changes import CHANGES

    monkeypatch.setenv("COLUMNS", "400")
    told = {**dict.fromkeys(CHANGES, 1), "doubtful": 0}
    _print_changes(HOSTILE[0], HOSTILE[1], {"classes": dict.fromkeys(HOSTILE, told), "added": 3})
    out = capsys.readouterr().out
    assert not set(OBEYED) & set(out)
    for name in HOSTILE[:-1]:  # the last has more columns than the screen
        assert shown(name).strip() in out, name


def test_csv_and_fiftyone_keep_names(tmp_path: Path) -> None:
    from relabel.datasets.formats.registry import read_dataset, write_dataset
    from relabel.datasets.partial.as_csv import csv_writer, read_csv
    from tests.builders.datasets import dataset_of, images_of, write_image

    known = csr_array(np.arange(len(HOSTILE), dtype=np.int8)[None] % 3 - 1)
    with csv_writer(tmp_path / "labels.csv", HOSTILE) as writer:
        writer.write(['a,\n".png'], known)
    found, classes, again = read_csv(tmp_path / "labels.csv")
    assert found == ['a,\n".png'] and list(classes) == [name.strip() for name in HOSTILE]
    assert again.toarray().tolist() == known.toarray().tolist()
    write_image(tmp_path / "a.png", 64, 48, (9, 9, 9))
    rows = [(0, [k, 0, 9, 9], k) for k in range(len(HOSTILE))]
    boxes = dataset_of("set", HOSTILE, images_of(["a.png"], (64, 48)), rows, root=tmp_path)
    write_dataset(boxes, "fiftyone", tmp_path / "out", copy_images="link")
    back = read_dataset(tmp_path / "out", "fiftyone")
    assert [back.space.names[c] for c in back.boxes.category] == HOSTILE
