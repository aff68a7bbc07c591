"""The little of TFRecord and of the protobuf wire format that reading Waymo v1 needs.

A TFRecord file is a row of records: length (u64, little-endian), masked CRC-32C of those eight
bytes, payload, masked CRC-32C of the payload. A protobuf message is a row of fields: a varint key
``number << 3 | wire type``, then a varint (0), eight bytes (1), a length and that many bytes (2)
or four bytes (5). Values stay where they are in the file: sub-messages are pairs of offsets, so
that a frame's lidar data is stepped over without being read.

Sources: TensorFlow's record_writer and the Protocol Buffers encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import google_crc32c

from relabel.errors import DataError, Problems

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_MASK_DELTA = 0xA282EAD8
# Pieces that stay in the processor's cache: all of a segment's 1 GB is passed through once.
_CRC_BYTES = 1 << 18
_HEADER, _FOOTER = 12, 4


class Buffer(Protocol):
    """What is read from: bytes or a memory-mapped file."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


class WireError(ValueError):
    """Bytes that are not a protobuf message; the message tells the offset in the file."""


def masked_crc32c(data: Buffer, start: int = 0, end: int | None = None) -> int:
    """The rotated and shifted CRC-32C that TFRecord stores, of ``data[start:end]``."""
    crc = 0
    end = len(data) if end is None else end
    for at in range(start, end, _CRC_BYTES):
        crc = google_crc32c.extend(crc, bytes(data[at : min(at + _CRC_BYTES, end)]))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def tfrecord_payloads(
    data: Buffer, path: Path, problems: Problems
) -> Iterator[tuple[str, int, int]]:
    """Name, start and end offset of every record's payload in a TFRecord file.

    A payload that does not match its checksum goes to ``problems`` and is left out.

    Raises:
        DataError: the file is cut off, or a length does not match its checksum: where the next
            record begins is then unknown. Or a damaged payload that is not to be skipped.
    """
    offset, total, number = 0, len(data), 0
    while offset < total:
        record = f"record {number}"
        header = bytes(data[offset : offset + _HEADER])
        if len(header) < _HEADER:
            raise _cut_off(path, record, offset, _HEADER - len(header))
        length, crc = struct.unpack("<QI", header)
        if crc != masked_crc32c(header[:8]):
            raise DataError(
                f"the length at offset {offset} does not match its checksum",
                file=path,
                record=record,
                remedy="Not a TFRecord file, or a damaged one: download it again.",
            )
        start = offset + _HEADER
        end = start + length
        if end + _FOOTER > total:
            raise _cut_off(path, record, offset, end + _FOOTER - total)
        (crc,) = struct.unpack("<I", data[end : end + _FOOTER])
        if crc == masked_crc32c(data, start, end):
            yield record, start, end
        else:
            problems.error(
                f"the {length} bytes from offset {start} do not match their checksum",
                file=path,
                record=record,
                remedy="Download the file again, or leave the frame out with --skip-bad.",
            )
        offset, number = end + _FOOTER, number + 1


def _cut_off(path: Path, record: str, offset: int, missing: int) -> DataError:
    return DataError(
        f"cut off: the record at offset {offset} lacks {missing} bytes",
        file=path,
        record=record,
        remedy="Download the file again.",
    )


def fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in ``data[start:end]``.

    Yields:
        (field number, wire type, a, b): for a varint ``a`` is the value, a signed 64-bit number;
        for the other types ``a`` and ``b`` are the offsets of the value in ``data``.

    Raises:
        WireError: not a protobuf message.
    """
    position = start
    while position < end:
        at = position
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, position = _varint(data, position, end)
            value &= (1 << 64) - 1  # ten bytes hold 70 bits, of which 64 count
            yield number, wire, value - (value >> 63 << 64), position
            continue
        if wire == BYTES:
            size, position = _varint(data, position, end)
        elif wire == FIXED64:
            size = 8
        elif wire == FIXED32:
            size = 4
        else:
            raise WireError(f"field of unknown kind at offset {at}")
        if number == 0 or position + size > end:
            raise WireError(f"field at offset {at} passes the end of its message")
        yield number, wire, position, position + size
        position += size


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data[position : min(position + 10, end)]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise WireError(f"number cut off at offset {position}")


def expect(wire: int, wanted: int, what: str, offset: int) -> None:
    """Raises WireError where a field does not have the wire type its schema says."""
    if wire != wanted:
        raise WireError(f"{what} at offset {offset} has wire type {wire}, expected {wanted}")


def double(data: Buffer, start: int) -> float:
    """The little-endian float64 at an offset."""
    return struct.unpack("<d", data[start : start + 8])[0]


def text(data: Buffer, start: int, end: int) -> str:
    """The UTF-8 string between two offsets.

    Raises:
        WireError: not UTF-8.
    """
    try:
        return bytes(data[start:end]).decode("utf-8")
    except UnicodeDecodeError:
        raise WireError(f"text at offset {start} is not UTF-8") from None
