"""Opening files of unknown origin: regular files only, of bounded size, as bytes or as text."""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from relabel.errors import DataError, RelabelError

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_LFS = b"version https://git-lfs"
_MOST_TEXT = 1 << 28
# JSON and label tables shrink to a tenth or a twentieth; a hundredth is padding, or an attack.
_MOST_EXPANSION, _ALWAYS_FINE = 100, 64 << 20
_CHUNK = 1 << 20
_DAMAGED = "Export or download the file again."


@contextmanager
def foreign(
    path: str | Path, what: str, *, remedy: str = _DAMAGED, record: str | None = None
) -> Iterator[None]:
    """Turn whatever a decoder raises in the block into one `DataError`.

    A library that meets bytes it was not written for raises nearly anything, RecursionError and
    MemoryError included. Errors of ours pass through, as do Ctrl-C and a full disk.

    Args:
        what: what the file turns out not to be, such as ``a readable zip archive``.
    """
    try:
        yield
    except RelabelError:
        raise
    except RecursionError as error:
        raise DataError(
            f"not {what}: nested too deeply", file=path, record=record, remedy=remedy
        ) from error
    except MemoryError as error:
        raise DataError(
            f"not {what}: it would need more memory than there is",
            file=path,
            record=record,
            remedy=remedy,
        ) from error
    except Exception as error:
        raise DataError(
            f"not {what}: {said_of(error)}", file=path, record=record, remedy=remedy
        ) from error


def said_of(error: BaseException) -> str:
    """What an exception says, as one line of bounded length; of a missing key, that it is one."""
    text = repr(error) if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())[:300] or type(error).__name__


def check_regular(path: str | Path, *, remedy: str = "Check the path.") -> int:
    """Size in bytes of a regular file, links followed.

    Raises:
        DataError: it is missing, a folder, or a pipe, socket or device, which may never end.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path per file would double the time)
    except (FileNotFoundError, NotADirectoryError):
        text = "is a link to nothing" if os.path.islink(path) else "file does not exist"  # noqa: PTH114
        raise DataError(text, file=path, remedy=remedy) from None
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise DataError(f"cannot be read: {text}", file=path, remedy=remedy) from error
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a socket or a device"
    raise DataError(f"is {what}, not a file", file=path, remedy=remedy)


@contextmanager
def open_file(path: str | Path, *, remedy: str = "Check the path.") -> Iterator[BufferedReader]:
    """A regular file open for reading bytes.

    Raises:
        DataError: see `check_regular`; or it cannot be opened or read.
    """
    check_regular(path, remedy=remedy)
    with _opened(path, remedy) as stream:
        yield stream


@contextmanager
def _opened(path: str | Path, remedy: str) -> Iterator[BufferedReader]:
    """`open_file` of what is known to be a regular file."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 (a Path per file costs time)
            yield stream
    except OSError as error:
        text = error.strerror or str(error)
        raise DataError(f"cannot be read: {text}", file=path, remedy=remedy) from error


@contextmanager
def open_mapped(path: str | Path, *, remedy: str = "Check the path.") -> Iterator[mmap.mmap]:
    """A file mapped into memory for reading.

    Raises:
        DataError: see `check_regular`; or it is empty.
    """
    with open_file(path, remedy=remedy) as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            raise DataError("file is empty", file=path, remedy="Download the file again.")
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        yield data


def read_bytes(
    path: str | Path, *, remedy: str = "Check the path.", most: int | None = None
) -> bytearray:
    """The bytes of an annotation file: without a UTF-8 byte order mark, gzip taken off.

    Args:
        most: the size beyond which the file is refused, decompressed; default as it is, and a
            hundred times the compressed size.

    Raises:
        DataError: see `check_regular`; or it is empty, too large, damaged gzip, or the pointer
            that Git LFS leaves in place of a file.
    """
    size = check_regular(path, remedy=remedy)
    if most is not None and size > most:
        raise _too_large(path, size, most)
    with _opened(path, remedy) as stream:
        data = bytearray(size)
        del data[stream.readinto(data) :]
    if data.startswith(_GZIP):
        data = _gunzipped(data, path, most)
    if data.startswith(_BOM):
        del data[: len(_BOM)]
    if not data or (len(data) < 64 and not data.strip()):
        raise DataError("file is empty", file=path, remedy="Download the file again.")
    if len(data) < 1024 and data.startswith(_LFS):
        raise DataError(
            "is a Git LFS pointer, not the file itself",
            file=path,
            remedy="Run git lfs pull in its repository.",
        )
    return data


def read_text(
    path: str | Path, *, remedy: str = "Check the path.", most: int = _MOST_TEXT, empty: bool = True
) -> str:
    """The text of a UTF-8 file, with or without a byte order mark, line ends as ``\\n``.

    Args:
        most: the size in bytes beyond which the file is refused.
        empty: whether a file without any text is fine.

    Raises:
        DataError: see `read_bytes`; or it is not UTF-8, or holds NUL bytes.
    """
    try:
        data = read_bytes(path, remedy=remedy, most=most)
    except DataError as error:
        if empty and error.message == "file is empty":
            return ""
        raise
    return decode_text(data, path)


@contextmanager
def text_lines(path: str | Path, *, remedy: str = "Check the path.") -> Iterator[Iterator[str]]:
    """The lines of a UTF-8 file one after the other, for tables too large to hold as one text.

    Without their ends, and without a byte order mark; gzip is taken off. Not split at the other
    marks that Unicode has, which may be a part of a name.

    Raises:
        DataError: see `read_bytes`; or a line is not UTF-8, or holds NUL bytes.
    """
    with open_file(path, remedy=remedy) as stream:
        head = stream.read(1024)
        stream.seek(0)
        if head.startswith((_GZIP, _LFS)):
            yield iter(read_text(path, remedy=remedy).split("\n"))
        else:
            yield _lines(stream, path)


def _lines(stream: BufferedReader, path: str | Path) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise not_utf8(line, path, record=f"line {number}") or DataError(
                "is not UTF-8 text", file=path, record=f"line {number}", remedy=_DAMAGED
            )
        yield text.rstrip("\r\n")


def decode_text(data: bytes | bytearray, path: str | Path, *, record: str | None = None) -> str:
    """UTF-8 bytes as text, a byte order mark taken off, line ends as ``\\n``.

    Raises:
        DataError: it is not UTF-8, or holds NUL bytes.
    """
    if data.startswith(_BOM):
        data = data[len(_BOM) :]
    not_text = not_utf8(data, path, record=record)
    if not_text is not None:
        raise not_text
    return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


def not_utf8(
    data: bytes | bytearray, path: str | Path, *, record: str | None = None
) -> DataError | None:
    """What keeps bytes from being UTF-8 text, or None."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"\0" in data[:64] and len(data) > 1):
        return DataError(
            "is UTF-16 text or binary, not UTF-8 text",
            file=path,
            record=record,
            remedy="Save it as UTF-8.",
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return DataError(
            f"not UTF-8 text at byte {error.start} (line {line})",
            file=path,
            record=record,
            remedy="Save it as UTF-8; it may be Latin-1 or Windows-1252.",
        )
    if b"\0" in data:
        return DataError(
            f"holds a NUL byte at byte {data.index(0)}, as no text does",
            file=path,
            record=record,
            remedy=_DAMAGED,
        )
    return None


def _gunzipped(data: bytearray, path: str | Path, most: int | None) -> bytearray:
    limit = max(_ALWAYS_FINE, _MOST_EXPANSION * len(data)) if most is None else most
    out, left = bytearray(), bytes(data)
    with foreign(path, "a readable gzip file"):
        while left:
            inflate = zlib.decompressobj(wbits=31)
            while not inflate.eof:
                piece = inflate.decompress(left, _CHUNK)
                out += piece
                left = inflate.unconsumed_tail
                if len(out) > limit:
                    raise _too_large(path, len(out), limit, " decompressed")
                if not piece and not left and not inflate.eof:
                    raise ValueError("it is cut off at its end")
            left = inflate.unused_data.lstrip(b"\0")
    return out


def _too_large(path: str | Path, size: int, most: int, how: str = "") -> DataError:
    return DataError(
        f"holds {size:,} bytes or more{how}; at most {most:,} are read",
        file=path,
        remedy="Check that it is the right file.",
    )
