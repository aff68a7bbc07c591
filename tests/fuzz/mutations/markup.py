"""JSON, YAML, TOML and XML, damaged as trees and as text."""

from __future__ import annotations

import json
from random import Random
from typing import Any
from xml.etree import ElementTree

import yaml

from tests.fuzz.mutations.text import TEXT, any_of
from tests.fuzz.mutations.values import NUMBERS, STRINGS, Raw, edit_tree, plain, to_json


def json_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """One edit of the tree, seldom of the text."""
    if rng.random() < 0.2 or len(data) > 100_000:
        return any_of(rng, TEXT, data)
    try:
        tree = [json.loads(data)]
    except (ValueError, RecursionError):
        return any_of(rng, TEXT, data)
    # The edit is below the top as a rule, and now and then the top itself.
    top = tree[0] if isinstance(tree[0], list | dict) and rng.random() < 0.97 else tree
    said = edit_tree(rng, top)
    return to_json(tree[0] if tree else Raw("")).encode(), said


_YAML_LINES = (
    "a: &a [x, x, x, x, x, x, x, x, x]",
    "&x a: *x",
    "b: *nowhere",
    "<<: *a",
    "? [1, 2]\n: 3",
    "!!python/object/apply:os.system ['echo hi']: 1",
    "date: 2020-13-45",
    "date: 2020-01-01",
    "when: 2001-12-14t21:59:43.10-05:00",
    "bits: !!binary '###'",
    "set: !!set {a, b}",
    "tab:\t1",
    "\tname: 1",
    "--- \nother: document",
    "...",
    "n: 0x7fffffffffffffffffffff",
    "n: 190:20:30",
    "f: .inf",
    "f: .nan",
    "%YAML 9.9",
    "key: 'unfinished",
    'key: "\\ud800"',
    "key: [1, 2",
    "yes: no",
    "1e3: x",
    "~: x",
    "- item",
    "i: 1_000",
    "i: " + "9" * 5000,
    "f: 1e999",
)


def _laughs(rng: Random, indent: str, key: str) -> str:
    """Aliases of aliases: small to write, huge to walk."""
    levels = rng.choice([3, 9, 25])
    lines = [f"{indent}l0: &l0 [x, x, x, x, x, x, x, x]"]
    for i in range(1, levels):
        lines.append(f"{indent}l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 8)}]")
    lines.append(f"{indent}{key}: *l{levels - 1}")
    return "\n".join(lines)


def yaml_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.random()
    text = data.decode("utf-8", "replace")
    lines = text.splitlines()
    # What an earlier change made explode or deep is not parsed here.
    if kind < 0.25 or not lines or b"*l" in data or b"[[[[" in data:
        return any_of(rng, TEXT, data)
    if kind < 0.6:
        try:
            tree = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            return any_of(rng, TEXT, data)
        top: list[Any] = [tree]
        said = edit_tree(rng, tree if isinstance(tree, dict | list) and tree else top)
        if rng.random() < 0.3:  # JSON is YAML, and can hold what a YAML writer would not write
            return to_json(top[0] if top else None).encode(), said
        written = yaml.safe_dump(plain(top[0] if top else None), sort_keys=False)
        return written.encode("utf-8", "surrogatepass"), said
    at = rng.randrange(len(lines) + 1)
    if kind < 0.7:
        keys = [line.split(":")[0].strip() for line in lines if ":" in line] or ["names"]
        key = rng.choice(keys)
        return "\n".join([_laughs(rng, "", key), *lines]).encode(), f"aliases explode in {key!r}"
    if kind < 0.75:
        depth = rng.choice([100, 3000, 50_000])
        deep = "deep: " + "[" * depth + "]" * depth
        return "\n".join([*lines, deep]).encode(), f"{depth} levels deep"
    if kind < 0.85 and lines:
        line = rng.choice(lines)
        lines.insert(at, line)
        return "\n".join(lines).encode(), f"line {line[:30]!r} twice"
    if kind < 0.92:
        i = rng.randrange(len(lines))
        head, colon, _ = lines[i].partition(":")
        lines[i] = f"{head}{colon or ':'} {rng.choice(STRINGS)}"
        return "\n".join(lines).encode("utf-8", "surrogatepass"), f"line {i + 1} has an odd value"
    put = rng.choice(_YAML_LINES)
    lines.insert(at, put)
    return "\n".join(lines).encode("utf-8", "surrogatepass"), f"line {put[:30]!r} put in"


_TOML_LINES = (
    "x = " + "[" * 200 + "]" * 200,
    "x = " + "[" * 20_000 + "]" * 20_000,
    "x = " + "{a=" * 3000 + "1" + "}" * 3000,
    ".".join(["a"] * 5000) + " = 1",
    "x = 1979-05-27T07:32:00Z",
    "x = 9999999999999999999999999999",
    "x = " + "9" * 5000,
    "x = nan",
    "x = 'unfinished",
    'x = "\\ud800"',
    'x = "\\u001b[31m"',
    "[datasets]",
    "[[datasets]]",
    "[datasets.a.b.c]",
    "[datasets.fine]\nroot = 'x'",
    "[runtime]\ndevice = 3\nworkers = -1",
    "[runtime]\nseed = 99999999999999999999",
    "[unknown]\nx = 1",
    '["\\u001b[31m"]\nx = 1',
    "[specialist]\nepochs = 'many'\nlr = nan",
    "[specialist]\nepochs = 1e400",
    "x = 1\nx = 2",
    "format = 7",
    "sample = -1",
    "sample = 1e9",
    "holdout = nan",
    "holdout_stretches = 100000000000",
    "root = ''",
    "root = '/dev/zero'",
    "train = '../../outside'",
    "space = 'coco'",
    "space = 'nothing.yaml'",
    "root = '${" + "A" * 50 + "}'",
    "root = '${A:-${B:-x}}'",
    "split = ['train', 'val']",
)


def toml_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.random()
    lines = data.decode("utf-8", "replace").splitlines()
    if kind < 0.25 or not lines:
        return any_of(rng, TEXT, data)
    i = rng.randrange(len(lines))
    if kind < 0.5:
        put = rng.choice(_TOML_LINES)
        lines.insert(i, put)
        said = f"line {put[:30]!r} put in"
    elif kind < 0.75:
        value = rng.choice([*STRINGS, *map(str, NUMBERS), "[]", "{}", "true", "[1, 'a']", '""'])
        quoted = json.dumps(value) if rng.random() < 0.6 else value
        lines[i] = f"{lines[i].partition('=')[0].strip()} = {quoted}"
        said = f"line {i + 1} is {lines[i][:40]!r}"
    elif kind < 0.88:
        said = f"line {lines.pop(i)[:30]!r} left out"
    else:
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
        said = f"line {lines[i][:30]!r} twice"
    return "\n".join(lines).encode("utf-8", "surrogatepass"), said


_DOCTYPES = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;&x;">'
    '<!ENTITY z "&y;&y;&y;&y;&y;&y;&y;&y;&y;&y;"><!ENTITY w "&z;&z;&z;&z;&z;&z;&z;&z;">]>',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://localhost:1/a.dtd">',
)


def xml_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.random()
    if kind < 0.25 or b"<!DOCTYPE" in data or len(data) > 100_000:
        return any_of(rng, TEXT, data)
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return any_of(rng, TEXT, data)
    if kind < 0.33:
        return _xml_text(rng, data)
    parents = [element for element in root.iter() if len(element)]
    if not parents:
        return any_of(rng, TEXT, data)
    parent = rng.choice(parents)
    child = rng.choice(list(parent))
    name = child.tag
    change = rng.choice(
        ["text", "text", "text", "drop", "twice", "rename", "move", "deep", "attribute", "empty"]
    )
    if change == "text":
        child.text = rng.choice([*STRINGS, *map(str, NUMBERS), " 3 ", "1,5", "3;4"])
        child.text = "".join(c for c in child.text if c == "\t" or " " <= c < "\ud800")
    elif change == "drop":
        parent.remove(child)
    elif change == "twice":
        for _ in range(rng.choice([1, 1, 2, 500])):
            parent.append(child)
    elif change == "rename":
        child.tag = rng.choice([str(name).upper(), f"x-{name}", "object", "bndbox", "name"])
    elif change == "move":
        inner = set(map(id, child.iter()))  # into itself it would be without end
        places = [place for place in parents if id(place) not in inner]
        parent.remove(child)
        rng.choice(places).append(child)
    elif change == "deep":
        depth = rng.choice([50, 700, 20_000])
        put = b"<a>" * depth + b"</a>" * depth
        return data.replace(b"</", put + b"</", 1), f"{depth} elements deep"
    elif change == "attribute":
        child.set("x", rng.choice(["1", "<", "é", "[/b]"]))
    else:
        child.clear()
    try:
        encoding = rng.choice(["utf-8", "utf-8", "utf-16", "latin-1", "us-ascii"])
        written = ElementTree.tostring(root, encoding=encoding)
    except (RecursionError, UnicodeError):
        return any_of(rng, TEXT, data)
    return written, f"element {name!r}: {change}"


def _xml_text(rng: Random, data: bytes) -> tuple[bytes, str]:
    if rng.random() < 0.5:
        doctype = rng.choice(_DOCTYPES)
        entity = "w" if "ENTITY w" in doctype else "x"
        body = data.partition(b"?>")[2] if data.startswith(b"<?xml") else data
        body = body.replace(b"<name>", f"<name>&{entity};".encode(), 1)
        return doctype.encode() + body, "entities"
    put = rng.choice(
        [
            b'<?xml version="1.0" encoding="utf-7"?>',
            b'<?xml version="1.0" encoding="shift_jis"?>',
            b'<?xml version="1.0" encoding="nothing"?>',
            b'<?xml version="1.1"?>',
            b"<!-- ",
            b"<![CDATA[",
            b"\x0b",
            b"&#0;",
            b"&#xD800;",
            b"&nbsp;",
        ]
    )
    if put.startswith(b"<?xml"):
        body = data.partition(b"?>")[2] if data.startswith(b"<?xml") else data
        return put + body, f"{put.decode()!r} at the start"
    at = rng.choice([0, data.find(b"</")])
    return data[:at] + put + data[at:], f"{put!r} put in"
