"""relabel.toml as it may come: from Windows, damaged, hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relabel.catalogue.catalogue import load_catalogue
from relabel.errors import RelabelError

TABLE = '[datasets.road]\nformat = "coco"\nroot = "road"\ntrain = "train.json"\n'


def config(tmp_path: Path, data: bytes | str) -> Path:
    file = tmp_path / "relabel.toml"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_marks_and_line_ends_do_not_matter(
    tmp_path: Path, encoding: str, end: str
) -> None:
    found = load_catalogue(config=config(tmp_path, TABLE.replace("\n", end).encode(encoding)))
    assert found.get("road").root == tmp_path / "road"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (TABLE.encode("utf-16"), "UTF-16"),
        (TABLE.replace("road", "räd").encode("latin-1"), "not UTF-8 text at byte"),
        (b"x = " + b"[" * 9000, "nested too deeply"),
        ("[lat]\nx." + "a." * 900 + "b = 1", "nested more than 64 deep"),
        ("[lat]\nx = " + "9" * 9000, "not valid TOML"),
        ("[lat]\nx = [0x" + "f" * 9000 + "]", "more than 64 bits"),
        (TABLE + TABLE, "not valid TOML"),
        (TABLE + 'format = "voc"', "not valid TOML"),
        ("[datasets.road]\nroot = 3", "[datasets.road]: root must be a text"),
        ("datasets = 3", "'datasets' must be a table"),
        ("[datasets]\nroad = 3", "[datasets.road] must be a table"),
        (b"\0", "NUL"),
        (TABLE.replace('"road"', '"~nobody-here/x"'), "no such home folder"),
        (TABLE.replace('"road"', '"a\\u0000b"'), "is no path"),
    ],
)
def test_what_is_no_relabel_toml_is_one_line(tmp_path: Path, data: bytes | str, expected: str):
    file = config(tmp_path, data)
    with pytest.raises(RelabelError) as caught:
        load_catalogue(config=file)
    assert expected in str(caught.value) and str(file) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_windows_paths_are_understood(tmp_path: Path) -> None:
    text = TABLE.replace('"road"', "'data\\road'").replace('"train.json"', "'sub\\train.json'")
    entry = load_catalogue(config=config(tmp_path, text)).get("road")
    assert entry.root == tmp_path / "data" / "road"
    assert entry.files == {"train": "sub/train.json"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_in_place_of_relabel_toml_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "relabel.toml")
    with pytest.raises(RelabelError):
        load_catalogue(config=tmp_path / "relabel.toml")
    assert load_catalogue(tmp_path).file != tmp_path / "relabel.toml"
