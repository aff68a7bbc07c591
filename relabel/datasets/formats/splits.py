"""Names of splits: `val`, `valid` and `validation` are one, in every format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from relabel.errors import DataError

_ALIASES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_KIND = {alias: kind for kind, aliases in _ALIASES.items() for alias in aliases}


def split_kind(name: str) -> str:
    """``train``, ``val`` or ``test`` for the names these go by, else the name in lower case.

    >>> [split_kind(n) for n in ("Valid", "training", "minival")]
    ['val', 'train', 'minival']
    """
    lowered = name.lower()
    return _KIND.get(lowered, lowered)


def split_names(name: str) -> list[str]:
    """The name itself, then the others that it may go by, for layouts that are looked up."""
    return list(dict.fromkeys([name, *_ALIASES.get(split_kind(name), ())]))


def find_split(wanted: str, known: Iterable[str], *, file: str | Path) -> str:
    """The one of ``known`` that is meant: the same name, else the same but for case, else an alias.

    Raises:
        DataError: none is, or several are; the message lists those there are.
    """
    names = list(known)
    if wanted in names:
        return wanted
    for same in (str.lower, split_kind):
        found = [name for name in names if same(name) == same(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"split {wanted!r} may be {' or '.join(map(repr, sorted(found)))}",
                file=file,
                remedy="Name one of them.",
            )
    raise DataError(
        f"has no split {wanted!r}",
        file=file,
        remedy=f"Known: {', '.join(sorted(names)[:20]) or 'none'}.",
    )
