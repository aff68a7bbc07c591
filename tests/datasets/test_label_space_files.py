"""Label spaces and name maps as people write them: names stay the text that was written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relabel.datasets.classes import read_class_list
from relabel.datasets.labelspace import LabelSpace
from relabel.datasets.namemap import NameMap
from relabel.errors import ConfigError, DataError

ODD = ["yes", "no", "on", "off", "007", "1.0", "1e3", "null", "~", "2020-13-45", "0x1F", "1_000"]


def space_file(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    file = tmp_path / "space.yaml"
    file.write_bytes(text.encode(encoding))
    return file


def test_names_that_yaml_reads_otherwise_stay_text(tmp_path: Path) -> None:
    rows = "".join(f"  - {{id: {i}, name: {name}}}\n" for i, name in enumerate(ODD))
    assert LabelSpace.load(space_file(tmp_path, f"name: 12\ncategories:\n{rows}")).names == ODD
    listed = tmp_path / "classes.yaml"
    listed.write_text("".join(f"- {name}\n" for name in ODD))
    assert read_class_list(listed).names == ODD


def test_windows_files_are_read(tmp_path: Path) -> None:
    text = "name: é\r\ncategories:\r\n- id: 1\r\n  name: car\r\n  ignore: Yes\r\n  prompt: null\r\n"
    space = LabelSpace.load(space_file(tmp_path, text, "utf-8-sig"))
    assert (space.name, space.names, space.num_classes) == ("é", ["car"], 0)
    assert space.categories[0].text_prompt == "car"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x", "not a label space"),
        ("- a", "not a label space"),
        ("name: x\ncategories: [a]", "entry 1: not a category"),
        ("name: x\ncategories: [{id: 1, name: a}, {id: b, name: c}]", "entry 2: id must be"),
        ("name: x\ncategories: [{id: 1.5, name: a}]", "id must be a whole number"),
        (f"name: x\ncategories: [{{id: 1{'0' * 30}, name: a}}]", "id must be a whole number"),
        ("name: x\ncategories: [{id: 1, name: {a: b}}]", "name must be text"),
        ("name: x\ncategories: [{id: 1}]", "has no name"),
        ("name: x\ncategories: [{id: 1, name: a, alias: [b]}]", "did you mean 'aliases'"),
        ("name: x\ncategories: [{id: 1, name: a, aliases: {b: c}}]", "aliases must be"),
        ("name: x\ncategories: [{id: 1, name: a, ignore: maybe}]", "ignore must be true"),
        ("name: x\ncategories: [{id: 1, name: a}, {id: 1, name: b}]", "appears twice"),
        ("name: x\nname: y\ncategories: []", "twice"),
        ("[" * 5000, "nest"),
    ],
)
def test_what_is_no_label_space_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    file = space_file(tmp_path, text)
    with pytest.raises(DataError, match="(?i)" + expected) as caught:
        LabelSpace.load(file)
    assert caught.value.file == str(file) and caught.value.remedy


def test_other_encodings_are_named(tmp_path: Path) -> None:
    text = "name: é\ncategories: [{id: 1, name: a}]"
    with pytest.raises(DataError, match="not UTF-8 text at byte 6"):
        LabelSpace.load(space_file(tmp_path, text, "latin-1"))
    with pytest.raises(DataError, match="UTF-16"):
        LabelSpace.load(space_file(tmp_path, text, "utf-16"))


def test_maps_keep_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    lines = [f"{name}: to {name}" for name in ODD if name not in ("null", "~")]
    file.write_bytes(
        "\r\n".join([*lines, "a: 007", "b: null", "c:", 'd: "null"']).encode("utf-8-sig")
    )
    names = NameMap.load(file).names
    assert dict(names) == {
        **{name: f"to {name}" for name in ODD if name not in ("null", "~")},
        "a": "007",
        "b": None,
        "c": None,
        "d": "null",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "map.yaml"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="not a file"):
        NameMap.load(pipe)
    with pytest.raises((ConfigError, DataError)):
        LabelSpace.load(pipe)
