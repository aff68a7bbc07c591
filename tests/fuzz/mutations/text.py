"""Damage that any text file can have: encodings, line ends, truncation, another file's content."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from random import Random

from tests.fuzz.mutations.values import STRINGS

Change = Callable[[Random, bytes], tuple[bytes, str]]

_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
_HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body></body></html>\n"


def flip_bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Change one to eight bytes."""
    if not data:
        return b"\xff", "one byte more"
    out, n = bytearray(data), rng.choice([1, 1, 1, 2, 4, 8])
    for _ in range(n):
        at = rng.randrange(len(out))
        out[at] = rng.choice([out[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255])
    return bytes(out), f"{n} bytes flipped"


def truncate(rng: Random, data: bytes) -> tuple[bytes, str]:
    kept = rng.randrange(len(data) + 1) if data else 0
    return data[:kept], f"cut off after {kept} bytes"


def splice(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Repeat, remove or move a stretch."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + 200)
    part = data[a:b]
    kind = rng.choice(["repeated", "removed", "moved"])
    if kind == "repeated":
        return data[:b] + part * rng.choice([1, 2, 30]) + data[b:], "a stretch repeated"
    rest = data[:a] + data[b:]
    if kind == "removed":
        return rest, "a stretch removed"
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + part + rest[at:], "a stretch moved"


def insert(rng: Random, data: bytes) -> tuple[bytes, str]:
    text = rng.choice(STRINGS)
    at = rng.randrange(len(data) + 1)
    put = text.encode("utf-8", "surrogatepass")
    return data[:at] + put + data[at:], f"{text[:20]!r} put in"


def replace_all(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Another content altogether."""
    name, content = rng.choice(
        [
            ("empty", b""),
            ("only a BOM", b"\xef\xbb\xbf"),
            ("only blanks", b"  \n\t\n"),
            ("only NUL", b"\0" * 64),
            ("a git-LFS pointer", _LFS),
            ("an HTML page", _HTML),
            ("null", b"null"),
            ("a number", b"12"),
            ("a string", b'"text"'),
            ("an empty list", b"[]"),
            ("an empty object", b"{}"),
            ("deep lists", b"[" * 100_000),
            ("deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
            ("random bytes", rng.randbytes(200)),
        ]
    )
    return content, name


def recode(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The same text in another encoding or with other line ends."""
    text = data.decode("utf-8", "replace")
    name = rng.choice(
        [
            "BOM",
            "two BOMs",
            "utf-16",
            "utf-16-be",
            "utf-32",
            "latin-1",
            "CRLF",
            "CR",
            "gzip",
            "gzip cut off",
            "no last newline",
            "blank lines",
            "NUL at the end",
            "control",
        ]
    )
    if name == "BOM":
        return b"\xef\xbb\xbf" + data, name
    if name == "two BOMs":
        return b"\xef\xbb\xbf" * 2 + data, name
    if name in ("utf-16", "utf-16-be", "utf-32"):
        return text.encode(name, "replace"), name
    if name == "latin-1":
        at = rng.randrange(len(data) + 1)
        return data[:at] + b"caf\xe9" + data[at:], name
    if name in ("CRLF", "CR"):
        return data.replace(b"\n", b"\r\n" if name == "CRLF" else b"\r"), name
    if name.startswith("gzip"):
        packed = gzip.compress(data, mtime=0)
        return (packed if name == "gzip" else packed[: len(packed) // 2]), name
    if name == "no last newline":
        return data.rstrip(), name
    if name == "blank lines":
        return data.replace(b"\n", b"\n\n \n"), name
    if name == "NUL at the end":
        return data + b"\0\0", name
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes([rng.randrange(32)]) + data[at:], name


TEXT: tuple[tuple[Change, int], ...] = (
    (flip_bytes, 3),
    (truncate, 3),
    (splice, 2),
    (insert, 2),
    (replace_all, 3),
    (recode, 5),
)
BINARY: tuple[tuple[Change, int], ...] = (
    (flip_bytes, 6),
    (truncate, 3),
    (splice, 2),
    (replace_all, 2),
)


def any_of(rng: Random, changes: tuple[tuple[Change, int], ...], data: bytes) -> tuple[bytes, str]:
    """One of the weighted changes."""
    picked, weights = zip(*changes, strict=True)
    return rng.choices(picked, weights)[0](rng, data)
