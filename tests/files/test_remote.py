"""Files behind URLs: an S3 server on this machine, and fsspec's store in memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relabel.errors import ConfigError, DataError, RelabelError
from relabel.files import remote
from relabel.files.remote import (
    check_output,
    download,
    is_url,
    list_remote,
    open_remote,
    read_remote,
    remote_size,
    remote_sizes,
    remove_remote,
    upload,
)
from tests.builders.store import Store


def test_urls_and_what_looks_like_one() -> None:
    assert is_url("s3://bucket/a.jpg")
    assert is_url("gs://bucket")
    for place in ("/data/a.jpg", "zip://data/a.zip!a.jpg", "C:/data", "a://b", "s3:/b", Path("a")):
        assert not is_url(place)


def test_reads_whole_files_and_none_beyond_a_size(bucket: Store) -> None:
    bucket.put("a b/ü#1?.bin", b"0123456789")
    url = f"{bucket.url}/a b/ü#1?.bin"
    assert read_remote(url, most=10) == b"0123456789"
    with pytest.raises(DataError, match="more than 9 bytes"):
        read_remote(url, most=9)


def test_reads_a_file_without_bytes(bucket: Store) -> None:
    bucket.put("empty", b"")
    assert read_remote(f"{bucket.url}/empty", most=10) == b""
    assert remote_size(f"{bucket.url}/empty") == 0


def test_what_is_missing_is_an_error_of_the_data(bucket: Store) -> None:
    with pytest.raises(DataError, match=f"{bucket.url}/no: does not exist"):
        read_remote(f"{bucket.url}/no", most=10)
    assert remote_size(f"{bucket.url}/no") == -1
    bucket.put("folder/a", b"1")
    assert remote_size(f"{bucket.url}/folder") == -1
    with pytest.raises(RelabelError, match="the bucket does not exist") as caught:
        read_remote("s3://no-such-bucket/a", most=10)
    assert not isinstance(caught.value, DataError)  # else --skip-bad would skip every image


def test_lists_files_with_their_sizes(bucket: Store) -> None:
    files = {"set/a/1.jpg": 1, "set/a/2.jpg": 2, "set/b/c/3.jpg": 3, "set/4.jpg": 4, "settle/x": 5}
    for name, size in files.items():
        bucket.put(name, b"x" * size)
    bucket.put("set/a/", b"")  # what browsers of stores put there for a folder
    expected = {"a/1.jpg": 1, "a/2.jpg": 2, "b/c/3.jpg": 3, "4.jpg": 4}
    assert list_remote(f"{bucket.url}/set") == expected
    assert list_remote(f"{bucket.url}/set/") == expected
    assert list_remote(f"{bucket.url}/none") == {}


@pytest.mark.parametrize("asked", [10_000, 3])
def test_sizes_of_many_files_are_listed(
    bucket: Store, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    for i in range(12):
        bucket.put(f"a/{i}", b"x" * i)
    monkeypatch.setattr(remote, "_ASKED", asked)
    calls: list[str] = []
    one = remote.remote_size
    monkeypatch.setattr(remote, "remote_size", lambda url: calls.append(url) or one(url))
    urls = [f"{bucket.url}/a/{i}" for i in range(13)]
    assert remote_sizes(urls) == [*range(12), -1]
    assert len(calls) == (13 if asked > 13 else 0)


def test_parts_are_fetched_as_they_are_read(bucket: Store) -> None:
    data = os.urandom(1 << 20)
    bucket.put("large", data)
    with open_remote(f"{bucket.url}/large") as stream:
        assert stream.read(10) == data[:10]
        assert len(stream._stream.cache.cache) < 1 << 18  # type: ignore[attr-defined]
        stream.seek(-10, 2)
        assert stream.read() == data[-10:]


def test_uploads_downloads_and_removes(bucket: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    url = f"{bucket.url}/out/a"
    upload(tmp_path / "a", url)
    assert bucket.get("out/a") == b"one"
    download(url, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"one"
    assert remote_size(url) == 3
    (tmp_path / "a").write_bytes(b"three")
    upload(tmp_path / "a", url)
    assert remote_size(url) == 5  # no listing is kept
    remove_remote(url)
    remove_remote(url)
    assert bucket.files("out") == {}


def test_says_which_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r"s3:// needs .* s3fs.*pip install 'relabel\[s3\]'"):
        read_remote("s3://bucket/a", most=1)
    with pytest.raises(ConfigError, match=r"needs the library gcsfs.*pip install gcsfs"):
        read_remote("gs://bucket/a", most=1)


def test_refuses_schemes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="no library knows nowhere://"):
        read_remote("nowhere://a/b", most=1)
    with pytest.raises(ConfigError, match="a place on this machine"):
        read_remote("file:///tmp/a", most=1)
    check_output("memory://out")
    with pytest.raises(ConfigError, match="not written to sftp://"):
        check_output("sftp://host/out")


def test_a_store_that_cannot_be_reached_is_no_error_of_the_data(bucket: Store) -> None:
    read = (
        "import sys; from relabel.errors import DataError, RelabelError\n"
        "from relabel.files.remote import read_remote\n"
        "try: read_remote(sys.argv[1], most=10)\n"
        "except DataError as error: sys.exit('data')\n"
        "except RelabelError as error: print(error)"
    )
    bucket.put("a", b"1")

    def said(**changes: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        env |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", **changes}
        command = [sys.executable, "-c", read, f"{bucket.url}/a"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    assert "Give credentials" in said(AWS_ENDPOINT_URL=endpoint)
    key = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    assert "cannot be reached" in said(AWS_ENDPOINT_URL="http://127.0.0.1:9", **key)


def _read(url: str) -> bytes:
    return read_remote(url, most=100)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_works_in_processes_started_while_it_is_in_use(bucket: Store, method: str) -> None:
    for i in range(8):
        bucket.put(str(i), str(i).encode())
    urls = [f"{bucket.url}/{i}" for i in range(8)]
    with ThreadPoolExecutor(4) as threads:
        here = list(threads.map(_read, urls))
        with multiprocessing.get_context(method).Pool(2) as pool:
            there = pool.map_async(_read, urls).get(60)
    assert here == there == [str(i).encode() for i in range(8)]


def test_nothing_is_imported_before_a_url_is_read() -> None:
    code = "import sys, relabel.files.remote, commands.cross_label; print('fsspec' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
