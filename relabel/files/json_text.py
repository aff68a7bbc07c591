"""JSON of unknown origin: NaN as Python writes it, no key twice, failures told by their place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relabel.errors import DataError
from relabel.files.opening import foreign, not_utf8, read_bytes

T = TypeVar("T")

# Python reads numbers of 4,300 digits at most.
_MOST_DIGITS = 4000


def parse_json(data: bytes | bytearray, path: str | Path, *, record: str | None = None) -> Any:
    """Plain Python objects from JSON that may hold NaN and Infinity, as Python writes them.

    Raises:
        DataError: not JSON, not UTF-8, cut off, nested too deeply, a key twice in one object, a
            number of thousands of digits; the message tells where.
    """
    bad_text = not_utf8(data, path, record=record)
    if bad_text is not None:
        raise bad_text
    try:
        return json.loads(data, object_pairs_hook=_once)
    except DataError as error:
        raise DataError(error.message, file=path, record=record, remedy=error.remedy) from None
    except RecursionError:
        raise DataError(
            "not valid JSON: nested too deeply", file=path, record=record, remedy=_REMEDY
        ) from None
    except ValueError as error:
        raise DataError(
            f"not valid JSON: {_what(error, data)}", file=path, record=record, remedy=_REMEDY
        ) from error


_REMEDY = "Export or download the file again."


def _what(error: ValueError, data: bytes | bytearray) -> str:
    if not isinstance(error, json.JSONDecodeError):
        if "digits" in str(error):
            return f"it holds a whole number of more than {sys.get_int_max_str_digits()} digits"
        return str(error)
    if not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string"):
        return "it is cut off at its end"
    if error.msg == "Extra data" and error.doc[error.pos :].lstrip()[:1] in ("{", "["):
        return f"a second value begins at line {error.lineno}; JSON lines are not read"
    return str(error)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise DataError(
            f"the key {twice!r} appears twice in one object, of which one would be lost",
            remedy="Merge or rename the two.",
        )
    return found


def read_json(path: str | Path, *, remedy: str = "Check the path.") -> Any:
    """`parse_json` of a file; see `read_bytes` for what a file may be."""
    return parse_json(read_bytes(path, remedy=remedy), path)


def read_object(path: str | Path, *, remedy: str = "Check the path.") -> dict[str, Any]:
    """`read_json` of a file that holds one JSON object, such as a model's ``config.json``.

    Raises:
        DataError: see `parse_json`; or it is another value.
    """
    found = read_json(path, remedy=remedy)
    if not isinstance(found, dict):
        raise DataError(f"holds {kind_of(found)}, not a JSON object", file=path, remedy=remedy)
    return found


def decode_json(
    data: bytes | bytearray, path: str | Path, type: type[T], *, record: str | None = None
) -> T:
    """JSON as a msgspec type.

    Raises:
        DataError: not JSON, or not of this type; the message tells where in the structure.
    """
    try:
        return msgspec.json.decode(data, type=type)
    except msgspec.ValidationError as error:
        raise DataError(
            str(error), file=path, record=record, remedy="Correct the file, or export it again."
        ) from error
    except Exception:
        parse_json(data, path, record=record)  # its errors say more
    with foreign(path, "JSON of the kind expected here", record=record):
        return msgspec.convert(parse_json(data, path, record=record), type)
    raise AssertionError  # unreachable: the block above returns or raises


def kind_of(value: Any) -> str:
    """What a decoded value is, in JSON's words: ``a list``, ``an object``, ``null`` ..."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    known = {str: "a text", list: "a list", dict: "an object"}
    return known.get(type(value), type(value).__name__)


def raw_fields(text: bytes | None) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object that was read before, each undecoded; none of no text.

    Half a character (``"\\ud800"``), which msgspec takes in no text at all, stays the escape that
    it was.
    """
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Digits that are too many for a number of Python's stay a text.
        fields = json.loads(text, parse_int=lambda t: int(t) if len(t) < _MOST_DIGITS else t)
        return {k: msgspec.Raw(json.dumps(v).encode()) for k, v in fields.items()}
