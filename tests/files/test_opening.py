import gzip
import os
from pathlib import Path

import pytest

from relabel.errors import DataError
from relabel.files.opening import check_regular, foreign, open_mapped, read_bytes, read_text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfvan\n", "van\n"),
        (gzip.compress(b"\xef\xbb\xbfvan", mtime=0), "van"),
        (gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0), "ab"),
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        ("é\u2028x".encode(), "é\u2028x"),
    ],
)
def test_text(tmp_path: Path, data: bytes, text: str):
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    assert read_text(file) == text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Fußgänger".encode("latin-1"), r"not UTF-8 text at byte 2 \(line 1\).*Latin-1"),
        ("van".encode("utf-16"), "UTF-16"),
        (b"a" * 100 + b"\0", "NUL byte at byte 100"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "git lfs pull"),
        (gzip.compress(b"a" * 1000, mtime=0)[:-12], "gzip"),
        (gzip.compress(bytes(1 << 20), mtime=0), "at most 1,000"),
    ],
)
def test_what_is_not_text(tmp_path: Path, data: bytes, message: str):
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_text(file, most=1000)
    assert str(file) in str(caught.value) and caught.value.remedy


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(gzip.compress(bytes(70 << 20), mtime=0))
    with pytest.raises(DataError, match="decompressed"):
        read_bytes(file)


def test_what_is_no_regular_file(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (
        ("pipe", "a pipe"),
        (".", "a folder"),
        ("none", "does not exist"),
        ("gone", "link to nothing"),
        ("loop", "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("nul\0byte", "cannot be read"),
    ):
        for read in (check_regular, read_bytes, read_text):
            with pytest.raises(DataError, match=message):
                read(tmp_path / name)
    (tmp_path / "empty").touch()
    for read in (read_bytes, lambda p: open_mapped(p).__enter__()):
        with pytest.raises(DataError, match="empty"):
            read(tmp_path / "empty")


@pytest.mark.parametrize(
    "error", [RecursionError(), MemoryError(), KeyError("x"), ValueError("two\nlines"), OSError(5)]
)
def test_any_failure_of_a_decoder_is_one_line(error: Exception):
    message = r"^f.bin, row 3: not a table: .*Again\.$"
    guarded = foreign("f.bin", "a table", remedy="Again.", record="row 3")
    with pytest.raises(DataError, match=message) as caught, guarded:
        raise error
    assert "\n" not in str(caught.value)
    with pytest.raises(KeyboardInterrupt), foreign("f", "a table"):
        raise KeyboardInterrupt
