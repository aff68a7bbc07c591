from pathlib import Path

import pytest

from relabel.errors import ConfigError, DataError
from relabel.files.json_text import decode_json, parse_json, read_object
from relabel.files.toml_text import load_toml
from relabel.files.xml_text import parse_xml
from relabel.files.yaml_text import load_yaml

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "aliases written out make more than"),
        ("a: &a [*a]", "an alias stands for what it lies in"),
        ("- " * 5000 + "x", "nested more than 64 deep"),
        ("[" * 100_000, "nest"),
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' appears twice"),
        ("? [a]\n: b", "itself a list"),
        ("car: 2020-13-45", "month must be"),
        ("x: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: b: c", r"^f\.yaml, line 1: not valid YAML"),
        ("a\x07", "control characters"),
        ("--- a\n--- b", "single document"),
        ("x: \ud800", "not valid YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        load_yaml(text, "f.yaml")
    assert "\n" not in str(caught.value) and caught.value.file == "f.yaml"


def test_yaml_values_and_text():
    text = "names: [yes, no, 007, 1.10, null, ~, 2024-01-01, 'a']\nnc: 8\nsame: &s {x: 1}\nt: *s"
    assert load_yaml(text, "f")["names"][:3] == [True, False, 7]
    written = load_yaml(text, "f", as_text=True)
    assert written["names"] == ["yes", "no", "007", "1.10", "null", "~", "2024-01-01", "a"]
    assert written["nc"] == "8" and written["t"] == {"x": "1"}
    assert load_yaml("", "f") is None and load_yaml("# only a comment", "f", as_text=True) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": [{"b": 1, "b": 2}]}', "the key 'b' appears twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
        (b'{"a": 1}\n{"a": 2}', "JSON lines"),
        (b'{"a": "bc', "cut off"),
        (b'{"a": ', "cut off"),
        (b'{"a": 1} x', "Extra data"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\xfc"}', "not UTF-8 text at byte 7"),
    ],
)
def test_json_that_is_refused(data: bytes, message: str):
    with pytest.raises(DataError, match=message) as caught:
        parse_json(data, "f.json")
    assert "\n" not in str(caught.value) and caught.value.file == "f.json"


@pytest.mark.parametrize("data", [b'{"a": [1', b"[[", b"{} x", b"\xff", b"[" * 200_000, b""])
def test_json_of_a_type_that_is_refused(data: bytes):
    with pytest.raises(DataError, match=r"^f\.json"):
        decode_json(data, "f.json", dict)


def test_json_values(tmp_path: Path):
    assert parse_json(b'[NaN, Infinity, "\\ud800"]', "f")[1] == float("inf")
    assert decode_json(b'{"a": NaN}', "f", dict)["a"] != 0
    with pytest.raises(DataError, match=r"Expected `int`, got `str` - at `\$\[0\]`"):
        decode_json(b'["a"]', "f", list[int])
    file = tmp_path / "config.json"
    file.write_bytes(b"[]")
    with pytest.raises(DataError, match="a list, not a JSON object"):
        read_object(file)


def test_toml():
    assert load_toml("a = 1", "f") == {"a": 1}
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_toml("a = 1\na = 2", "f")
    with pytest.raises(DataError, match="nested too deeply"):
        load_toml("x = " + "[" * 100_000, "f")


def test_xml():
    assert parse_xml(b'<?xml version="1.0" encoding="latin-1"?><a>\xfc</a>', "f").text == "ü"
    assert parse_xml(b"\n <a>x</a>", "f").tag == "a"
    deep = b"<a>" * 100_000 + b"</a>" * 100_000
    assert parse_xml(deep, "f").find("b") is None
    for data, message in (
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
        (b"<!doctype a><a/>", "document type"),
        ("<a/>".encode("utf-16"), "UTF-16"),
        (b"<a/><b/>", "junk"),
        (b"<a", "not valid XML"),
        (b"<a>\xfc</a>", "not UTF-8"),
        (b'<?xml version="1.0" encoding="nope"?><a>\xfc</a>', "unknown encoding"),
    ):
        with pytest.raises(DataError, match=message):
            parse_xml(data, "f")
