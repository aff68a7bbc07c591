"""Image files: headers with right checksums, other modes and formats, EXIF, truncation."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random
from typing import Any

from PIL import Image

from tests.fuzz.mutations.text import BINARY, any_of

_PNG = b"\x89PNG\r\n\x1a\n"
_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\nshowpage\n%%EOF\n"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>'
_PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def image_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    kind = rng.random()
    if kind < 0.15:
        return any_of(rng, BINARY, data)
    if kind < 0.3 and data.startswith(_PNG):
        return _png(rng, data)
    if kind < 0.3 and data.startswith(b"\xff\xd8"):
        return _jpeg(rng, data)
    if kind < 0.4:
        name, content = rng.choice(
            [
                ("EPS", _EPS),
                ("SVG", _SVG),
                ("PDF", _PDF),
                ("PPM of 60000 x 60000", b"P6 60000 60000 255\n" + b"\0" * 100),
                ("PPM of 9e9 pixels", b"P6 99999999999999999999 2 255\n"),
                ("BMP of 2^31", _bmp(2**31 - 1, 2**31 - 1)),
                (
                    "GIF of 65535 x 65535",
                    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0",
                ),
                ("XBM", b"#define a_width 64\n#define a_height 48\nstatic char a[] = {0x00};"),
                ("a TIFF header", b"II*\0\x08\0\0\0\xff\xff"),
                ("ICO", b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0\xff\xff\xff\xff\x16\0\0\0"),
                ("WebP header", b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff"),
                ("JPEG 2000 header", b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "),
            ]
        )
        return content, f"{name} under the name"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            picture = image.copy()
    except Exception:  # whatever an earlier change made of it
        return any_of(rng, BINARY, data)
    return _written_again(rng, picture)


def _written_again(rng: Random, picture: Image.Image) -> tuple[bytes, str]:
    change = rng.choice(["mode", "mode", "format", "orientation", "orientation", "EXIF", "size"])
    options: dict[str, Any] = {}
    picture = picture.convert("RGB") if picture.mode not in ("RGB", "L", "I;16") else picture
    form = "PNG"
    if change == "mode":
        form, mode = rng.choice(
            [
                ("PNG", "L"),
                ("PNG", "LA"),
                ("PNG", "P"),
                ("PNG", "RGBA"),
                ("PNG", "1"),
                ("PNG", "I;16"),
                ("PNG", "I"),
                ("JPEG", "CMYK"),
                ("JPEG", "L"),
                ("JPEG", "YCbCr"),
                ("TIFF", "F"),
                ("TIFF", "I"),
                ("TIFF", "I;16"),
                ("TIFF", "LAB"),
                ("TIFF", "CMYK"),
            ]
        )
        change = f"mode {mode} in {form}"
        if mode == "LAB":
            picture = Image.new("LAB", picture.size, (100, 3, 3))
        elif mode == "I;16":
            picture = Image.new("I;16", picture.size, 40_000)
        else:
            picture = picture.convert("L" if picture.mode == "I;16" else "RGB").convert(mode)
    elif change == "format":
        form = rng.choice(["GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "ICO", "TGA", "PCX"])
        picture = picture.convert("RGB")
        change = f"format {form}"
    elif change in ("orientation", "EXIF"):
        form = rng.choice(["JPEG", "JPEG", "PNG", "TIFF", "WEBP"])
        picture = picture.convert("RGB")
        if change == "orientation":
            exif = Image.Exif()
            exif[0x0112] = rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535])
            change = f"orientation {exif[0x0112]} in {form}"
            options["exif"] = exif
        else:
            head = rng.choice([b"Exif\0\0II*\0", b"Exif\0\0MM\0*", b"Exif\0\0"])
            options["exif"] = head + rng.randbytes(rng.choice([4, 40]))
    else:
        size = rng.choice([(1, 1), (63, 48), (48, 64), (5000, 1), (640, 480)])
        picture = picture.convert("RGB").resize(size)
        change = f"size {size}"
        form = rng.choice(["PNG", "JPEG"])
    out = io.BytesIO()
    try:
        picture.save(out, form, **options)
    except (OSError, ValueError, KeyError, TypeError, struct.error, SyntaxError):
        picture.convert("RGB").save(out, "PNG")
    return out.getvalue(), change


def _png(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Chunks with right checksums."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    change = rng.choice(["size", "size", "depth", "colour", "pixels", "bomb", "text", "left out"])
    head = bytearray(chunks[0][1])
    if len(head) < 13:
        return any_of(rng, BINARY, data)
    if change == "size":
        width, height = rng.choice(
            [(0, 0), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (64, 47), (2**20, 9)]
        )
        head[:8] = struct.pack(">II", width, height)
        change = f"size {width} x {height}"
    elif change == "depth":
        head[8] = rng.choice([0, 1, 2, 4, 16, 32, 255])
    elif change == "colour":
        head[9] = rng.choice([0, 1, 3, 4, 5, 6, 7])
    chunks[0] = (b"IHDR", bytes(head))
    i = rng.randrange(1, len(chunks)) if len(chunks) > 1 else 0
    if change == "pixels":
        chunks[i] = (chunks[i][0], any_of(rng, BINARY, chunks[i][1])[0])
    elif change == "bomb":
        packed = zlib.compress(bytes(30_000_000))
        chunks.insert(1, rng.choice([(b"zTXt", b"a\0\0" + packed), (b"iCCP", b"a\0\0" + packed)]))
    elif change == "text":
        chunks.insert(1, (rng.choice([b"tEXt", b"eXIf", b"gAMA", b"pHYs", b"PLTE"]), b"\0\1x"))
    elif change == "left out" and i:
        chunks.pop(i)
    out = _PNG
    for name, content in chunks:
        check = zlib.crc32(name + content)
        out += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return out, f"PNG: {change}"


def _jpeg(rng: Random, data: bytes) -> tuple[bytes, str]:
    """The frame header's size and components, and segments' lengths."""
    at = next((p for m in (b"\xff\xc0", b"\xff\xc2") if (p := data.find(m)) > 0), -1)
    if at < 0:
        return any_of(rng, BINARY, data)
    out = bytearray(data)
    change = rng.choice(["size", "components", "length", "bits"])
    if change == "size":
        height, width = rng.choice([(0, 0), (65_535, 65_535), (1, 65_535), (47, 64), (65_500, 9)])
        struct.pack_into(">HH", out, at + 5, height, width)
        change = f"size {width} x {height}"
    elif change == "components":
        out[at + 9] = rng.choice([0, 1, 2, 4, 255])
    elif change == "length":
        struct.pack_into(">H", out, at + 2, rng.choice([0, 1, 2, 9, 65_535]))
    else:
        out[at + 4] = rng.choice([0, 12, 16])
    return bytes(out), f"JPEG: {change}"


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, width, height, 1, 24) + bytes(24)
