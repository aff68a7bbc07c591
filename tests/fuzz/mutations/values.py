"""Odd values, and edits of trees of lists and objects: what JSON, YAML and TOML share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Edit = Callable[[Random, "Node"], str]


class Raw(str):
    """Text that is written as it stands."""


class Pairs(list):
    """The entries of an object, of which several may have one key."""


STRINGS = (
    "",
    " ",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "[/bold]",
    "[red]x[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "\ud800",
    "a\udcff.jpg",
    "../../outside/secret.jpg",
    "../outside/secret.jpg",
    "/etc/passwd",
    "..\\..\\outside\\secret.jpg",
    "C:\\data\\a.jpg",
    "images\\..\\..\\outside\\secret.jpg",
    "a/../b",
    ".",
    "..",
    "/",
    "~",
    "~/x",
    "$HOME",
    "${HOME}",
    "${A:-}",
    "a!b.zip!c.jpg",
    "é",
    "e\u0301",
    "\u202egpj.exe",
    "\u2028",
    "x" * 5000,
    "a" * 300 + ".jpg",
    "nan",
    "1e309",
    "true",
    "null",
    "-1",
    "1.0",
    "007",
    "a\r\nb",
    "a\tb",
    "a,b",
    "😀",
    "\ufeffvan",
    ".hidden.jpg",
    "._000.png",
    "%s{}{0}%n",
    "<b>&amp;</b>",
    "]]>",
    "http://localhost:1/x.jpg",
    "s3://bucket/x.jpg",
    "CON",
    "9" * 25,
    "٣",
    "-",
    "-rf",
    "2020-01-01",
)
NUMBERS: tuple[Any, ...] = (
    0,
    -1,
    1,
    -0.0,
    0.5,
    1e-300,
    1e300,
    float("inf"),
    float("-inf"),
    float("nan"),
    2**31 - 1,
    2**31,
    2**32,
    -(2**31) - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    10**30,
    10_000_000,
    100_000,
    Raw("1" * 300),
    Raw("9" * 5000),
    Raw("1e400"),
    Raw("-1e400"),
    Raw("1e-400"),
    Raw("0.1e+1"),
    1.5,
    3.0000001,
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    [None],
    {"": None},
    {"a": {"b": {"c": []}}},
    [0] * 1000,
    [[0, 0], [1, 1]],
    ["a", 1, None],
)


def odd(rng: Random) -> Any:
    """A value that is hardly ever right."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(STRINGS)
    return rng.choice(NUMBERS) if kind < 0.75 else rng.choice(OTHERS)


class Node:
    """A place in a tree: a list or object, and the index or key in it."""

    def __init__(self, parent: Any, key: Any) -> None:
        self.parent, self.key = parent, key

    @property
    def value(self) -> Any:
        return self.parent[self.key]

    @value.setter
    def value(self, value: Any) -> None:
        self.parent[self.key] = value


def nodes(parent: Any) -> Iterator[Node]:
    """Every place below a list or object."""
    entries = enumerate(list(parent)) if isinstance(parent, list) else list(parent.items())
    for key, value in entries:
        yield Node(parent, key)
        if isinstance(value, list | dict) and not isinstance(value, Pairs):
            yield from nodes(value)


def _replace(rng: Random, node: Node) -> str:
    node.value = odd(rng)
    return f"is {str(node.value)[:30]!r}"


def _delete(rng: Random, node: Node) -> str:
    del node.parent[node.key]
    return "is left out"


def _twice(rng: Random, node: Node) -> str:
    value = node.value
    if isinstance(node.parent, list):
        node.parent.insert(rng.randint(0, len(node.parent)), value)
        return "is listed twice"
    pairs = Pairs((key, value) for key, value in node.parent.items())
    pairs.append((node.key, rng.choice([value, odd(rng), [], {}])))
    node.parent.clear()
    node.parent["\0pairs"] = pairs
    return "is there twice"


def _rename(rng: Random, node: Node) -> str:
    if not isinstance(node.parent, dict):
        return _replace(rng, node)
    value = node.parent.pop(node.key)
    name = str(node.key)
    new = rng.choice([name.upper(), name + "s", name + " ", "\ufeff" + name, rng.choice(STRINGS)])
    node.parent[new] = value
    return f"is called {new[:30]!r}"


def _wrap(rng: Random, node: Node) -> str:
    value = node.value
    node.value = rng.choice([[value], [[value]], {"value": value}, {"0": value}])
    return "is wrapped"


def _unwrap(rng: Random, node: Node) -> str:
    value = node.value
    if isinstance(value, list) and value:
        node.value = rng.choice(value)
    elif isinstance(value, dict) and value:
        node.value = rng.choice([list(value.values()), next(iter(value.values()))])
    else:
        return _other_type(rng, node)
    return "is unwrapped"


def _other_type(rng: Random, node: Node) -> str:
    value = node.value
    if isinstance(value, bool) or value is None:
        node.value = rng.choice([str(value), int(bool(value)), "yes", "no"])
    elif isinstance(value, int | float):
        node.value = rng.choice([str(value), float(value), f"{value}.0", [value], bool(value)])
    elif isinstance(value, str):
        node.value = rng.choice([list(value), value.encode().hex(), 7, None, value.upper()])
    else:
        node.value = json.dumps(value, default=str)
    return "is of another type"


def _scale(rng: Random, node: Node) -> str:
    value = node.value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return _other_type(rng, node)
    node.value = value * rng.choice([-1, 0, 0.1, 10, 1000, 10**6]) + rng.choice([0, 0, 1, -0.5])
    return "is scaled"


def _empty(rng: Random, node: Node) -> str:
    value = node.value
    if not isinstance(value, list | dict):
        return _replace(rng, node)
    node.value = type(value)()
    return "is empty"


def _repeat(rng: Random, node: Node) -> str:
    value = node.value
    if not isinstance(value, list) or not value:
        return _twice(rng, node)
    node.value = value * rng.choice([2, 3, 50])
    return "is repeated"


def _more(rng: Random, node: Node) -> str:
    value = node.value
    if not isinstance(value, dict):
        return _replace(rng, node)
    value[rng.choice(STRINGS)] = odd(rng)
    return "has one more key"


def _swap(rng: Random, node: Node) -> str:
    keys = list(range(len(node.parent))) if isinstance(node.parent, list) else list(node.parent)
    other = rng.choice(keys)
    node.parent[node.key], node.parent[other] = node.parent[other], node.value
    return f"and {str(other)[:20]!r} are exchanged"


def _deep(rng: Random, node: Node) -> str:
    depth = rng.choice([60, 300, 2000, 100_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    node.value = Raw(opened * depth + "1" + closed * depth)
    return f"is {depth} levels deep"


EDITS: tuple[tuple[Edit, int], ...] = (
    (_replace, 12),
    (_delete, 5),
    (_twice, 4),
    (_rename, 3),
    (_wrap, 3),
    (_unwrap, 3),
    (_other_type, 5),
    (_scale, 4),
    (_empty, 2),
    (_repeat, 2),
    (_more, 1),
    (_swap, 3),
    (_deep, 1),
)


def edit_tree(rng: Random, tree: Any) -> str:
    """Change one place of a tree in place; says what was changed."""
    found = list(nodes(tree))
    if not found:
        return "nothing to edit"
    node = rng.choice(found)
    edits, weights = zip(*EDITS, strict=True)
    edit = rng.choices(edits, weights)[0]
    name = str(node.key)[:30]
    return f"{name!r} {edit(rng, node)}"


def to_json(value: Any) -> str:
    """JSON text, with `Raw` and repeated keys as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        entries = value["\0pairs"] if "\0pairs" in value else value.items()
        return "{" + ", ".join(f"{json.dumps(str(k))}: {to_json(v)}" for k, v in entries) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value, default=str)


def plain(value: Any) -> Any:
    """The tree without `Raw` and repeated keys, for writers of other formats."""
    if isinstance(value, Raw):
        return str(value)[:4000]
    if isinstance(value, dict):
        entries = value["\0pairs"] if "\0pairs" in value else value.items()
        return {k: plain(v) for k, v in entries}
    return [plain(v) for v in value] if isinstance(value, list) else value
