"""Images of unknown origin: named formats, sizes checked before decoding, one upright pixel grid.

Sizes and pixels are upright: the orientation that Exif data states is applied, as FiftyOne, CVAT,
OpenCV and Ultralytics do and as every viewer shows them. Broken Exif data states nothing. Of
several frames or pages (GIF, TIFF, WebP, MPO, APNG) the first counts. An alpha channel is dropped,
as OpenCV and torchvision drop it.
"""

from __future__ import annotations

import io
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from relabel.errors import DataError, RelabelError
from relabel.files.opening import check_regular

# Phones' MPO files are JPEG to Pillow. EPS starts Ghostscript; others hold no photos.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
_NAMES = "JPEG, PNG, WebP, BMP, GIF, TIFF, PPM and JPEG 2000"
MOST_PIXELS = 300_000_000
"""Pixels of the largest image that is decoded. Only the size of larger ones is read."""
MOST_BYTES = 1 << 31
# No format's compression of photos or of masks goes beyond; 60,000 x 60,000 in 74 bytes does.
_MOST_PIXELS_PER_BYTE, _ALWAYS_FINE = 10_000, 1 << 24
# Of images from this size on only one is decoded at a time, whatever the number of threads.
_LARGE = 1 << 26
_large = threading.Lock()
_UNDECODED, _NO_IMAGE = "image cannot be decoded", "not an image"
_REMEDY = "Replace the file, or leave it out with --skip-bad."

# Pillow refuses to open large images even for their size. Ours are checked before decoding.
Image.MAX_IMAGE_PIXELS = None
# What is wrong is one error of ours; Pillow's own remarks name lines of its source.
warnings.filterwarnings("ignore", module=r"PIL\.")

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 258, 262
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# Exif data beside a photo's pixels is small, and tools append it at the end of a PNG.
_PNG_TAIL = 1 << 16
_MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer: run git lfs pull in its repository"),
    (b"%!PS", "PostScript, which is not read"),
    (b"%PDF", "PDF, which is not read"),
    (b"8BPS", "a Photoshop file, which is not read"),
    (b"<", "HTML, SVG or XML text"),
    (b"\xff\xd8", "a JPEG whose header is damaged or cut off"),
    (b"\x89PNG", "a PNG whose header is damaged or cut off"),
    (b"GIF8", "a GIF whose header is damaged or cut off"),
    (b"II*\0", "a damaged TIFF, or one with pixels of a kind that is not read"),
    (b"MM\0*", "a damaged TIFF, or one with pixels of a kind that is not read"),
)


class Header(NamedTuple):
    """What an image says of itself.

    Attributes:
        size: (width, height) upright.
        orientation: Exif's, 1 to 8, where it still is to be applied; of 5 to 8 the stored size is
            the other way round.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) of the pixels as they are stored."""
        return _turned(self.size) if self.orientation >= 5 else self.size


@contextmanager
def open_image(
    source: BinaryIO, name: str | Path, *, fault: str = _UNDECODED
) -> Iterator[Image.Image]:
    """An image of a named format, as stored, not decoded; any failure in the block is one error.

    Args:
        source: the encoded bytes, or an open file.
        fault: how the error begins.

    Raises:
        DataError: not such an image, damaged, cut off, without pixels, or the block fails.
    """
    try:
        with Image.open(source, formats=_FORMATS) as image:
            if not (image.width > 0 and image.height > 0):
                raise ValueError("it states a size without pixels")
            yield image
    except RelabelError:
        raise
    except Exception as error:
        # Plugins raise nearly anything on bytes they were not written for.
        raise _fault(_why(error, source), name, fault) from error


def read_header(source: BinaryIO, name: str | Path) -> Header:
    """Upright size and orientation of an image, from its header.

    Raises:
        DataError: see `open_image`.
    """
    with open_image(source, name, fault=_NO_IMAGE) as image:
        return _header(image, source)


def file_header(path: str | Path) -> Header:
    """`read_header` of a file.

    Raises:
        DataError: also where there is no regular file.
    """
    check_image_file(path)
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 (a Path per image costs time)
            return read_header(stream, path)
    except OSError as error:
        raise _fault(_why(error, None), path, _NO_IMAGE) from error


def check_image_file(path: str | Path, *, most: int | None = MOST_BYTES) -> int:
    """Bytes of an image file, or of what holds images.

    Raises:
        DataError: it is missing, a folder, a pipe or a device, or larger than ``most``.
    """
    try:
        size = check_regular(path, remedy="Check the dataset's root.")
    except DataError as error:
        raise DataError(f"image {error.message}", file=path, remedy=error.remedy) from error
    if most is not None and size > most:
        raise _fault(f"it holds {size:,} bytes; at most {most:,} are read", path)
    return size


def decode_rgb(data: bytes, *, name: str | Path = "image") -> np.ndarray:
    """Decode an encoded image to uint8 [H, W, 3] RGB, upright.

    Of 16-bit values the upper eight bits count, of 12-bit ones the upper eight of twelve. 32-bit
    integers and floats have no known black and white and are refused.

    Raises:
        DataError: see `open_image`; or too many pixels, or more than its bytes can hold, told
            before memory is taken; or pixels without a known range.
    """
    source = io.BytesIO(data)
    with open_image(source, name) as image:
        orientation = _header(image, source).orientation
        pixels = image.width * image.height
        check_room(image.size, len(data), name)
        with _large if pixels > _LARGE else nullcontext():
            rgb = _as_rgb(image, name)
            if orientation > 1:
                rgb = rgb.transpose(_TURN[orientation])
            return np.array(rgb)  # a copy: torch warns of read-only arrays


def check_room(size: tuple[int, int], length: int, name: str | Path) -> None:
    """Refuse an image of (width, height) in ``length`` bytes that must not be decoded.

    Raises:
        DataError: more than `MOST_PIXELS`, or more than the bytes can hold.
    """
    pixels = size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise DataError(
            f"image has {size[0]}x{size[1]} pixels; up to {MOST_PIXELS:,} are decoded",
            file=name,
            remedy="Cut it into tiles, or leave it out with --skip-bad.",
        )
    if pixels > max(_ALWAYS_FINE, length * _MOST_PIXELS_PER_BYTE):
        raise _fault(f"it states {size[0]}x{size[1]} pixels, but holds {length:,} bytes", name)


def _header(image: Image.Image, source: BinaryIO) -> Header:
    size, exif = image.size, image.info.get("exif")
    if image.format == "TIFF":  # Pillow turns these by itself, the size at once
        return Header(size, 1)
    if exif is None and image.format == "PNG":
        exif = _exif_behind_pixels(source)
    orientation = _orientation(exif) if isinstance(exif, bytes) else 1
    return Header(_turned(size) if orientation >= 5 else size, orientation)


def _turned(size: tuple[int, int]) -> tuple[int, int]:
    return size[1], size[0]


def _orientation(exif: bytes) -> int:
    """Exif's orientation, 1 where the data is broken or states none or one that does not exist.

    Source: Exif 2.32, tag 0x0112 of the first directory.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(exif[:4])
    if order is None:
        return 1

    def number(at: int, length: int) -> int:
        return int.from_bytes(exif[at : at + length], order)

    start = number(4, 4)
    for at in range(start + 2, min(start + 2 + 12 * number(start, 2), len(exif) - 11), 12):
        if number(at, 2) == _ORIENTATION:
            length = {1: 1, 3: 2, 4: 4}.get(number(at + 2, 2), 0)
            value = number(at + 8, length)
            return value if 1 <= value <= 8 else 1
    return 1


def _exif_behind_pixels(source: BinaryIO) -> bytes | None:
    """The Exif data that stands after a PNG's pixels, where exiftool puts it."""
    place = source.tell()
    try:
        end = source.seek(0, io.SEEK_END)
        source.seek(max(0, end - _PNG_TAIL))
        tail = source.read(_PNG_TAIL)
    finally:
        source.seek(place)
    at = tail.rfind(b"eXIf")
    if at < 4:
        return None
    length = int.from_bytes(tail[at - 4 : at], "big")
    data, crc = tail[at + 4 : at + 4 + length], tail[at + 4 + length : at + 8 + length]
    # Compressed pixels may hold these four letters too; not with a checksum behind.
    return data if zlib.crc32(tail[at : at + 4 + length]) == int.from_bytes(crc, "big") else None


def _as_rgb(image: Image.Image, name: str | Path) -> Image.Image:
    mode = image.mode
    # PNG and PGM with 16 bits are widened by some versions of Pillow; their range is known.
    wide = mode == "I" and image.format in ("PNG", "PPM", "JPEG2000")
    if mode.startswith("I;16") or wide:
        tags = getattr(image, "tag_v2", {})
        bits = 12 if tags.get(_BITS) == (12,) else 16
        white_is_zero = tags.get(_PHOTOMETRIC) == 0
        # Pillow would cut the values off at 255, which leaves a white image.
        grey = (np.asarray(image) >> (bits - 8)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB")
    if mode in ("I", "F", "LAB"):
        kinds = {"I": "32-bit or signed integers", "F": "floats", "LAB": "L*a*b* colours"}
        raise DataError(
            f"image cannot be decoded: its pixels are {kinds[mode]}, of which no black and white "
            "are known",
            file=name,
            remedy="Save it with 8 or 16 bits per channel (gdal_translate -ot Byte -scale), or "
            "leave it out with --skip-bad.",
        )
    image.load()
    image.info.pop("transparency", None)
    if mode in ("RGBa", "La"):  # colours that were multiplied by alpha
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _why(error: Exception, source: BinaryIO | None) -> str:
    if isinstance(error, UnidentifiedImageError) and source is not None:
        return _why_unknown(source)
    if isinstance(error, MemoryError):
        return "it would need more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def _why_unknown(source: BinaryIO) -> str:
    try:
        source.seek(0)
        head = source.read(64)
    except (OSError, ValueError):
        head = b"?"
    if not head:
        return "the file is empty"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"it is {what}"
    if head[4:8] == b"ftyp":
        return f"it is HEIC, AVIF or a video; {_NAMES} are read"
    return f"not in a known image format; {_NAMES} are read"


def _fault(why: str, name: str | Path, fault: str = _UNDECODED) -> DataError:
    return DataError(f"{fault}: {why}", file=name, remedy=_REMEDY)
