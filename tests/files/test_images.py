"""Images of unknown origin: one upright grid, every kind of pixel, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from relabel.errors import DataError
from relabel.files.images import decode_rgb, file_header, read_header

# pytest shows Pillow's warnings again, which the module silences.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# 40 wide and 24 high, with a mark that tells all eight orientations apart.
PICTURE = np.full((24, 40, 3), 200, np.uint8)
PICTURE[:8, :16] = (250, 0, 0)
PICTURE[16:, :8] = (0, 0, 250)
LOSSLESS: dict[str, dict[str, object]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def header(data: bytes):
    return read_header(io.BytesIO(data), "a.img")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, mode: int = 0, pixels: bytes = b"\0") -> bytes:
    """A PNG that states any size, with whatever pixels; ``mode`` 0 is grey, 2 is RGB."""
    size = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    parts = (chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", LOSSLESS)
def test_pixels_and_sizes_are_upright(form: str, orientation: int):
    data = encoded(PICTURE, form, exif=exif(orientation), **LOSSLESS[form])
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert upright.shape[:2] == ((40, 24) if orientation >= 5 else (24, 40))
    assert (decode_rgb(data) == upright).all()
    assert header(data).size == upright.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_photos_are_upright(form: str, orientation: int):
    more = {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]} if form == "MPO" else {}
    data = encoded(PICTURE, form, exif=exif(orientation), quality=95, **more)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (decode_rgb(data) == np.asarray(upright)).all()
    found = header(data)
    assert (found.size, found.stored, found.orientation) == (upright.size, (40, 24), orientation)


def test_a_tag_in_little_endian_or_of_another_type():
    for order, sign in (("<", b"II*\0"), (">", b"MM\0*")):
        for kind, value in ((3, struct.pack(f"{order}HH", 6, 0)), (4, struct.pack(f"{order}I", 6))):
            entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
            block = sign + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
            data = encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + block)
            assert header(data).size == (24, 40)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0XX*\0\x08\0\0\0\x01\0",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x06\0\0\0",
        b"Exif\0\0" + bytes(range(256)),
    ],
)
def test_broken_exif_turns_nothing(block: bytes):
    data = encoded(PICTURE, "JPEG", exif=block)
    assert (header(data).size, header(data).orientation) == ((40, 24), 1)
    assert decode_rgb(data).shape == (24, 40, 3)


def test_exif_behind_the_pixels_of_a_png():
    plain = encoded(PICTURE)
    block = exif(8).tobytes().removeprefix(b"Exif\0\0")
    late = plain[:-12] + chunk(b"eXIf", block) + plain[-12:]
    assert header(late).size == (24, 40)
    assert (decode_rgb(late) == np.rot90(PICTURE)).all()
    wrong = bytearray(late)
    wrong[-13] ^= 1  # its checksum
    assert header(bytes(wrong)).orientation == 1


def test_bytes_of_the_tag_without_exif_are_pixels(tmp_path: Path):
    assert header(encoded(PICTURE)).orientation == 1


GREY = np.linspace(0, 255, 24 * 40).astype(np.uint8).reshape(24, 40)
ALPHA = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.fromarray(GREY > 127)), np.where(GREY > 127, 255, 0)),
        (encoded(GREY), GREY),
        (encoded(ALPHA), GREY),
        (encoded(Image.fromarray(PICTURE).convert("P")), PICTURE.shape),
        (encoded(Image.fromarray(GREY).convert("P"), transparency=bytes(range(256))), GREY),
        (encoded(Image.fromarray(GREY).convert("P"), transparency=3), GREY),
        (encoded(Image.fromarray(np.dstack([PICTURE, GREY]))), PICTURE),
        (encoded(Image.fromarray(np.dstack([PICTURE, GREY])), "TIFF"), PICTURE),
        (encoded(GREY.astype(np.uint16) * 257), GREY),
        (encoded(GREY.astype(np.uint16) * 257, "TIFF"), GREY),
        (encoded(Image.fromarray(PICTURE).convert("CMYK"), "TIFF"), PICTURE),
        (encoded(PICTURE, "BMP"), PICTURE),
        (encoded(PICTURE, "PPM"), PICTURE),
        (encoded(PICTURE, "JPEG2000"), PICTURE),
        (encoded(Image.fromarray(PICTURE).quantize(9), "GIF"), PICTURE),
        (b"P5 2 1 65535\n" + struct.pack(">2H", 256, 65535), [[1, 255]]),
        (b"P5 2 1 4095\n" + struct.pack(">2H", 2048, 4095), [[128, 255]]),
    ],
)
def test_kinds_of_pixels(data: bytes, expected: object):
    found = decode_rgb(data)
    assert found.dtype == np.uint8 and found.shape[2] == 3 and found.flags.writeable
    if isinstance(expected, tuple):
        assert found.shape == expected
    else:
        wanted = np.asarray(expected)
        wanted = wanted[..., None] if wanted.ndim == 2 else wanted
        assert np.abs(found.astype(int) - wanted).max() <= 2


def test_photos_of_printers():
    """CMYK and YCCK JPEGs hold inverted inks, as Adobe writes them."""
    data = encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(decode_rgb(data).astype(int) - PICTURE).mean() < 4


def deep_tiff(values: bytes, bits: int, width: int, *, photometric: int = 1, kind: int = 1):
    """An uncompressed TIFF of one row."""
    tags = [
        (256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 134),
        (277, 1), (278, 1), (279, len(values)), (339, kind),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    block = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return block + values


def test_deep_tiffs():
    twelve = deep_tiff(bytes([0x80, 0x0F, 0xFF]), 12, 2)
    assert decode_rgb(twelve)[0, :, 0].tolist() == [128, 255]
    sixteen = struct.pack("<2H", 256, 65535)
    assert decode_rgb(deep_tiff(sixteen, 16, 2))[0, :, 0].tolist() == [1, 255]
    # Where 0 is white.
    assert decode_rgb(deep_tiff(sixteen, 16, 2, photometric=0))[0, :, 0].tolist() == [254, 0]
    assert decode_rgb(deep_tiff(b"\x01\xff", 8, 2, photometric=0))[0, :, 0].tolist() == [254, 0]


def test_colours_with_16_bits():
    """Pillow writes none: three channels of big-endian 16 bits by hand."""
    row = b"\0" + struct.pack(">3H", 256, 32768, 65535)
    size = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b""))
    assert decode_rgb(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).tolist() == [[[1, 128, 255]]]


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        deep_tiff(struct.pack("<2h", -5, 300), 16, 2, kind=2),
        b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
    ],
)
def test_pixels_without_a_range_are_refused(data: bytes):
    assert min(header(data).size) > 0  # the size is known all the same
    with pytest.raises(DataError, match=r"x\.tif: .*no black and white are known.*8 or 16 bits"):
        decode_rgb(data, name="x.tif")


def test_the_first_of_several_frames_counts():
    frames = [Image.new("L", (6, 4), v) for v in (10, 200)]
    for form in ("GIF", "TIFF", "PNG", "WEBP"):
        more: dict[str, object] = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **more)
        assert (decode_rgb(data) == 10).all()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404", "HTML"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\1\0\1\0\x10\x10", "not in a known image format; JPEG, PNG"),
        (encoded(PICTURE, "ICO"), "not in a known image format"),
        (encoded(PICTURE, "TGA"), "not in a known image format"),
        (encoded(PICTURE, "JPEG")[:40], "."),
        (encoded(PICTURE)[:20], "."),
        (png(0, 5), "."),
    ],
)
def test_what_is_no_image_is_said(data: bytes, what: str):
    for call in (
        lambda: decode_rgb(data, name="x.jpg"),
        lambda: read_header(io.BytesIO(data), "x.jpg"),
    ):
        with pytest.raises(
            DataError, match=rf"x\.jpg: (image cannot be decoded|not an image): .*{what}"
        ) as caught:
            call()
        assert "\n" not in str(caught.value) and "0x" not in str(caught.value)
        assert "--skip-bad" in str(caught.value)


def test_no_program_is_started_for_postscript(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "posix_spawn", lambda *_: pytest.fail("started a program"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("started a program"))
    eps = encoded(PICTURE, "EPS")
    with pytest.raises(DataError, match="PostScript"):
        decode_rgb(eps)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_damage_is_one_error(form: str):
    rng = np.random.default_rng(7)
    whole = encoded(rng.integers(0, 255, (24, 40, 3), dtype=np.uint8), form)
    with pytest.raises(DataError):
        decode_rgb(whole[: len(whole) // 2])
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, min(len(data), 300), 4):
            data[at] = rng.integers(0, 256)
        try:
            assert decode_rgb(bytes(data)).ndim == 3
        except DataError as error:
            assert "\n" not in str(error)


def test_sizes_are_checked_before_memory_is_taken():
    huge = png(60_000, 60_000)
    assert header(huge).size == (60_000, 60_000)
    with pytest.raises(DataError, match=r"60000x60000 pixels; up to 300,000,000 .*tiles"):
        decode_rgb(huge)
    for data in (png(15_000, 15_000), png(20_000, 10_000, 2)):
        assert header(data).size[0] >= 15_000
        with pytest.raises(DataError, match=r"states .* pixels, but holds \d+ bytes"):
            decode_rgb(data)


def test_large_photos_are_read(monkeypatch: pytest.MonkeyPatch):
    """Beyond Pillow's own limit of 179 million pixels, which its users meet as an error."""
    monkeypatch.setattr("relabel.files.images._ALWAYS_FINE", 10)
    monkeypatch.setattr("relabel.files.images._LARGE", 10)
    assert decode_rgb(encoded(PICTURE)).shape == (24, 40, 3)
    assert header(png(20_000, 12_000)).size == (20_000, 12_000)


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(DataError, match="image file does not exist"):
        file_header(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="image is a folder"):
        file_header(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="image is a pipe"):
        file_header(tmp_path / "pipe.jpg")
