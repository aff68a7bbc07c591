"""YAML of unknown origin: bounded in depth, size and aliases; no key twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from relabel.errors import DataError
from relabel.files.opening import foreign

_MOST_DEPTH = 64
_MOST_VALUES = 2_000_000
_REMEDY = "Correct the file; it should be plain YAML."
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULL = "tag:yaml.org,2002:null"


class _TextOrNull(_Base):
    """Every scalar as the text that was written, but for nulls without quotes."""


_TextOrNull.add_implicit_resolver(_NULL, re.compile("(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_TextOrNull.add_constructor(_NULL, lambda loader, node: None)


def load_yaml(text: str, path: str | Path, *, as_text: bool = False, nulls: bool = False) -> Any:
    """Plain Python values from one YAML document, None from an empty one.

    Aliases are followed as far as the values they stand for stay few, so that a file of a few
    bytes cannot stand for billions.

    Args:
        path: the file that errors name.
        as_text: every scalar stays the text that was written: of class names, ``no``, ``007``,
            ``1.10``, ``null`` and ``2024-01-01`` are no booleans, numbers, nulls or dates.
        nulls: with ``as_text``, a null without quotes is None all the same.

    Raises:
        DataError: not YAML, nested too deeply, too many values, a key twice in one mapping, a key
            that is no scalar, a tag that asks for a Python object.
    """
    with foreign(path, "valid YAML", remedy=_REMEDY):
        try:
            _check_depth(text, path)
            loader = (_TextOrNull if nulls else _Base) if as_text else _Safe
            return _constructed(loader(text), path)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            record = None if mark is None else f"line {mark.line + 1}"
            what = " ".join(part for part in (error.context, error.problem) if part)
            what = what.replace("found unexpected", "found")  # our own word for bugs
            raise DataError(
                f"not valid YAML: {what}", file=path, record=record, remedy=_REMEDY
            ) from error
    raise AssertionError  # unreachable: the block above returns or raises


def _constructed(loader: Any, path: str | Path) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, path)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_depth(text: str, path: str | Path) -> None:
    """Composing recurses, in C too, where too deep a document would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Base):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise DataError(
                f"nested more than {_MOST_DEPTH} deep",
                file=path,
                record=f"line {event.start_mark.line + 1}",
                remedy=_REMEDY,
            )


def _check_size(root: yaml.Node, path: str | Path) -> None:
    """Count values with every alias written out, and look at the keys of mappings."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        key = id(node)
        if key in sizes:
            return sizes[key]
        if isinstance(node, yaml.ScalarNode):
            return 1
        if key in open_nodes:
            raise _at(node, path, "an alias stands for what it lies in")
        open_nodes.add(key)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
            total = 1 + sum(size(k) + size(v) for k, v in node.value)
        else:
            total = 1 + sum(map(size, node.value))
        open_nodes.discard(key)
        if total > _MOST_VALUES:
            raise _at(node, path, f"aliases written out make more than {_MOST_VALUES:,} values")
        sizes[key] = total
        return total

    size(root)


def _check_keys(node: yaml.MappingNode, path: str | Path) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _at(key, path, "a key of a mapping is itself a list or a mapping")
        written = (key.tag, key.value)
        if written in seen and key.tag != "tag:yaml.org,2002:merge":
            raise _at(key, path, f"the key {key.value!r} appears twice")
        seen.add(written)


def _at(node: yaml.Node, path: str | Path, message: str) -> DataError:
    return DataError(message, file=path, record=f"line {node.start_mark.line + 1}", remedy=_REMEDY)
