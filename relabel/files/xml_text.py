"""XML of unknown origin: no document type, so that no entity can expand or reach out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

from relabel.errors import DataError
from relabel.files.opening import foreign, not_utf8

_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def parse_xml(data: bytes | bytearray, path: str | Path) -> ET.Element:
    """The root element; UTF-8, or one of the single-byte encodings that the file declares.

    Raises:
        DataError: not XML, UTF-16, or a document type (the only place where entities that expand
            or reach out can be declared).
    """
    declared = _ENCODING.match(data[:200])
    if declared is None or declared[1].lower() in (b"utf-8", b"utf8"):
        bad_text = not_utf8(data, path)
        if bad_text is not None:
            raise bad_text
    # NUL bytes would hide a document type in UTF-16.
    if b"\0" in data or b"<!DOCTYPE" in data.upper():
        raise DataError(
            "has a document type or is UTF-16, which annotation files do not need",
            file=path,
            remedy="Remove the document type, and save the file as UTF-8.",
        )
    with foreign(path, "valid XML"):
        return ET.fromstring(data)
    raise AssertionError  # unreachable: the block above returns or raises
