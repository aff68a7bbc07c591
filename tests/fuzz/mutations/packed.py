"""Zip archives, TFRecord files, safetensors and pickles: lengths, checksums, names, flags."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

from tests.builders.waymo import chunk, number, tfrecord, varint
from tests.fuzz.mutations.text import BINARY, any_of
from tests.fuzz.mutations.values import STRINGS, edit_tree, odd, to_json

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
# Offset of each field in a record of the central directory, and in a local header.
_FIELDS = {
    "flags": (8, 6, "<H"),
    "method": (10, 8, "<H"),
    "checksum": (16, 14, "<I"),
    "packed size": (20, 18, "<I"),
    "size": (24, 22, "<I"),
    "length of the name": (28, 26, "<H"),
    "offset": (42, None, "<I"),
}


def zip_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.random()
    if kind < 0.25 or _CENTRAL not in data:
        return any_of(rng, BINARY, data)
    if kind < 0.6:
        return _zip_names(rng, data)
    out = bytearray(data)
    name, (central, local, pack) = rng.choice(list(_FIELDS.items()))
    values = {
        "flags": [1, 0x41, 0x800, 0x2000, 8],
        "method": [1, 8, 9, 12, 14, 93, 99, 65535],
    }.get(name, [0, 1, 2**16 - 1, 2**31, 2**32 - 1, 1_000_000])
    value = rng.choice(values) % (1 << (16 if pack == "<H" else 32))
    places = [(data.find(_CENTRAL), central), (data.find(_LOCAL), local)]
    for start, offset in places if rng.random() < 0.6 else places[:1]:
        if start >= 0 and offset is not None:
            struct.pack_into(pack, out, start + offset, value)
    return bytes(out), f"{name} is {value}"


def _zip_names(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The archive written again, with other members."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # whatever an earlier change made of it
        return any_of(rng, BINARY, data)
    change = rng.choice(["name", "left out", "twice", "method", "member", "bomb", "folder", "more"])
    i = rng.randrange(len(members)) if members else 0
    method = zipfile.ZIP_STORED
    if change == "name" and members:
        members[i] = (rng.choice(STRINGS).replace("\0", "_") or "x", members[i][1])
    elif change == "left out" and members:
        members.pop(i)
    elif change == "twice" and members:
        members.append((members[i][0], rng.choice([members[i][1], b"other"])))
    elif change == "method":
        method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    elif change == "member" and members:
        members[i] = (members[i][0], any_of(rng, BINARY, members[i][1])[0])
    elif change == "bomb" and members:
        method = zipfile.ZIP_DEFLATED
        members[i] = (members[i][0], members[i][1] + bytes(40_000_000))
    elif change == "folder":
        members = [(f"img/{name}", content) for name, content in members]
    else:
        members += [(".DS_Store", b"x"), ("__MACOSX/._a.jpg", b"x"), ("a/", b"")]
    out = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode())
            archive.writestr(info, content, method)
    return out.getvalue(), f"members: {change}"


def tfrecord_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Frames with other payloads and right checksums, wrong lengths, wrong checksums."""
    frames, at = [], 0
    while at + 12 <= len(data):
        size = struct.unpack_from("<Q", data, at)[0]
        if at + 16 + size > len(data):
            break
        frames.append(data[at + 12 : at + 12 + size])
        at += 16 + size
    kind = rng.random()
    if kind < 0.2 or not frames:
        return any_of(rng, BINARY, data)
    if kind < 0.35:
        out = bytearray(data)
        value = rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data)])
        header = struct.pack("<Q", value)
        if rng.random() < 0.5:
            out[:8] = header  # with the checksum of the right length
            return bytes(out), f"length is {value}"
        whole = tfrecord([header])
        out[:12] = header + whole[12 + 8 : 12 + 12]
        return bytes(out), f"length is {value}, its checksum right"
    if kind < 0.45:
        out = bytearray(data)
        out[rng.randrange(12, 12 + len(frames[0]))] ^= 1 << rng.randrange(8)
        return bytes(out), "a bit of the payload flipped"
    i = rng.randrange(len(frames))
    change = rng.choice(["fields", "fields", "fields", "twice", "left out", "empty", "bytes"])
    if change == "fields":
        frames[i], said = _protobuf(rng, frames[i])
        change = f"fields: {said}"
    elif change == "twice":
        frames.append(frames[i])
    elif change == "left out":
        frames.pop(i)
    elif change == "empty":
        frames[i] = b""
    else:
        frames[i], change = any_of(rng, BINARY, frames[i])
    return tfrecord(frames), f"frame {i}: {change}"


def _wire(data: bytes) -> list[tuple[int, int, Any]] | None:
    """The fields of a message as (number, wire type, value), None if it is none."""
    found, at = [], 0

    def take() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            tag = take()
            field, wire = tag >> 3, tag & 7
            if wire == 0:
                found.append((field, wire, take()))
                continue
            size = take() if wire == 2 else {1: 8, 5: 4}[wire]
            if at + size > len(data) or not field:
                return None
            found.append((field, wire, data[at : at + size]))
            at += size
    except (ValueError, KeyError, RecursionError):
        return None
    return found


def _protobuf(rng: Random, data: bytes, depth: int = 0) -> tuple[bytes, str]:
    """One field of a message, or of a message in it, changed."""
    fields = _wire(data)
    if not fields:
        return any_of(rng, BINARY, data)
    inner = [i for i, (_, wire, value) in enumerate(fields) if wire == 2 and _wire(value)]
    said = ""
    if inner and depth < 4 and rng.random() < 0.75:
        i = rng.choice(inner)
        changed, said = _protobuf(rng, fields[i][2], depth + 1)
        fields[i] = (fields[i][0], 2, changed)
    else:
        i = rng.randrange(len(fields))
        field, wire, value = fields[i]
        change = rng.choice(["value", "value", "value", "left out", "twice", "type", "number"])
        if change == "value" and wire == 0:
            fields[i] = (field, 0, rng.choice([0, 1, 2, 9, 2**31, 2**63, 2**64 - 1]))
        elif change == "value" and wire == 1:
            places = [0, -1, 1e300, float("nan"), float("inf"), 1e-320, 5.5]
            fields[i] = (field, 1, struct.pack("<d", rng.choice(places)))
        elif change == "value":
            odd_text = rng.choice(STRINGS).encode("utf-8", "surrogatepass")
            fields[i] = (field, wire, odd_text if wire == 2 else value[::-1])
        elif change == "left out":
            fields.pop(i)
        elif change == "twice":
            fields.insert(rng.randrange(len(fields) + 1), fields[i])
        elif change == "type":
            fields[i] = (field, 0, 3) if wire else (field, 2, b"\1\2\3")
        else:
            fields[i] = (rng.choice([1, 2, 3, 4, 5, 8, 99, 2**28]), wire, value)
        said = f"field {field} {change}"
    out = b""
    for field, wire, value in fields:
        if wire == 0:
            out += number(field, value)
        elif wire == 2:
            out += chunk(field, value)
        else:
            out += varint(field << 3 | wire) + value
    return out, said


def tensors_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The header of a safetensors file, with its length put right or not."""
    if len(data) < 8 or rng.random() < 0.3:
        return any_of(rng, BINARY, data)
    size = struct.unpack_from("<Q", data)[0]
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return any_of(rng, BINARY, data)
    if rng.random() < 0.25:
        value = rng.choice([0, 1, size + 1, len(data) * 2, 2**32, 2**63, 2**64 - 1])
        return struct.pack("<Q", value) + data[8:], f"length of the header is {value}"
    names = [name for name in header if name != "__metadata__"]
    change = rng.choice(["tree", "shape", "dtype", "offsets", "name", "left out"])
    entry = header[rng.choice(names)] if names else {}
    if change == "shape" and entry:
        shape = entry["shape"]
        entry["shape"] = rng.choice([[], [0], [2**40], shape[::-1], [*shape, 1], [-1], [2**63, 2]])
    elif change == "dtype" and entry:
        entry["dtype"] = rng.choice(["F16", "F64", "I64", "BOOL", "F8_E4M3", "X", "f32", None])
    elif change == "offsets" and entry:
        first, last = entry["data_offsets"]
        entry["data_offsets"] = rng.choice([[last, first], [0, 2**50], [first], [-1, last], [0, 0]])
    elif change == "name" and names:
        header[rng.choice(STRINGS)] = header.pop(rng.choice(names))
    elif change == "left out" and names:
        header.pop(rng.choice(names))
    else:
        change = edit_tree(rng, header)
    text = to_json(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :], f"header: {change}"


def parquet_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Columns of other types and values, missing ones, other compression; bytes of the footer."""
    kind = rng.random()
    if kind < 0.15:
        return any_of(rng, BINARY, data)
    if kind < 0.35:
        out = bytearray(data)
        first = max(0, len(out) - rng.choice([12, 60, 400]))
        for _ in range(rng.choice([1, 1, 3])):
            out[rng.randrange(first, len(out))] = rng.randrange(256)
        return bytes(out), "bytes of the footer flipped"
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        return any_of(rng, BINARY, data)
    i = rng.randrange(table.num_columns)
    name = table.schema.names[i]
    values = table.column(i).to_pylist()
    change = rng.choice(
        [
            "null",
            "left out",
            "renamed",
            "text",
            "binary",
            "odd",
            "odd",
            "double",
            "int64",
            "list",
            "no rows",
            "rows twice",
            "dictionary",
            "null type",
            "metadata",
            "twice",
            "one value",
        ]
    )
    try:
        column: Any = None
        if change == "null":
            values[rng.randrange(len(values))] = None
            column = pa.array(values, table.schema.types[i])
        elif change in ("text", "double", "int64", "dictionary"):
            column = _cast(pa, table.column(i), values, change)
        elif change == "binary":
            column = pa.array([str(v).encode("utf-8", "replace") for v in values])
        elif change == "odd":
            column = _odd_column(rng, pa, table.schema.types[i], values)
        elif change == "list":
            column = pa.array([[v] for v in values])
        elif change == "null type":
            column = pa.nulls(len(values))
        elif change == "one value":
            column = pa.array([values[0]] * len(values), table.schema.types[i])
        if column is not None:
            table = table.set_column(i, name, column)
        elif change == "left out":
            table = table.remove_column(i)
        elif change == "renamed":
            new = rng.choice(
                [name.upper(), rng.choice(STRINGS).encode("utf-8", "replace").decode()]
            )
            table = table.rename_columns([new if c == name else c for c in table.schema.names])
        elif change == "no rows":
            table = table.slice(0, 0)
        elif change == "rows twice":
            table = pa.concat_tables([table, table])
        elif change == "twice":
            table = table.append_column(name, table.column(i))
        else:
            texts = ["[", "3", '"a"', '["a", "b"]', '{"class_names": 7}', "[1]", "[" * 50_000]
            table = table.replace_schema_metadata({"class_names": rng.choice(texts)})
        out_file = io.BytesIO()
        codec = rng.choice(["snappy", "none", "gzip", "zstd", "brotli"])
        pq.write_table(table, out_file, compression=codec, row_group_size=rng.choice([1, 1000]))
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError, UnicodeError):
        return any_of(rng, BINARY, data)
    return out_file.getvalue(), f"column {name!r}: {change}"


def _cast(pa: Any, column: Any, values: list[Any], change: str) -> Any:
    if change == "text":
        return pa.array([str(v) for v in values])
    if change == "dictionary":
        return column.combine_chunks().dictionary_encode()
    kind = pa.float64() if change == "double" else pa.int64()
    return pa.array([float(v) if isinstance(v, int | float) else 7 for v in values]).cast(
        kind, safe=False
    )


def _odd_column(rng: Random, pa: Any, kind: Any, values: list[Any]) -> Any:
    """One value is an odd one that the column's type can hold."""
    i = rng.randrange(len(values))
    if pa.types.is_floating(kind):
        values[i] = rng.choice([float("nan"), float("inf"), -1.0, 1e300, 0.0])
    elif pa.types.is_integer(kind):
        values[i] = rng.choice([0, -1, 5, 99, 127])
    elif pa.types.is_binary(kind):
        values[i] = rng.choice([b"", b"\xff\xd8", any_of(rng, BINARY, values[i] or b"")[0]])
    elif pa.types.is_string(kind):
        values[i] = rng.choice(STRINGS).encode("utf-8", "replace").decode()
    elif pa.types.is_list(kind):
        values[i] = rng.choice([[], None, [*(values[i] or []), *(values[i] or [])], [None]])
    else:
        values[i] = odd(rng)
    return pa.array(values, kind)


def pickled_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """A torch file is a zip; seldom a bare pickle with code."""
    if rng.random() < 0.2:
        return b"cos\nsystem\n(S'echo hi'\ntR.", "a pickle that calls os.system"
    if rng.random() < 0.1:
        return zlib.compress(data), "zlib"
    return zip_file(rng, data)
