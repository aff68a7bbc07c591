"""Files behind URLs such as ``s3://bucket/folder/name.jpg``, read and written by fsspec.

Which schemes there are, credentials and endpoints are the libraries' (s3fs, gcsfs, adlfs): they
look where the vendors' own tools do, and try again what fails for a moment. What is missing is a
`DataError`, so that one image can be skipped. That a store cannot be reached at all, or refuses, is
none: else every image would be skipped.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from relabel.errors import ConfigError, DataError, RelabelError
from relabel.files.opening import said_of

CONNECTIONS = 16
"""Requests at a time: threads wait for a store, they do not compute."""
# `zip:`, `bytes:` and `parquet:` begin locations of relabel's own, whose paths may begin with //.
_URL = re.compile(r"(?!(?:zip|bytes|parquet):)[A-Za-z][A-Za-z0-9+.-]+://")
_EXTRAS = {"s3": "'relabel[s3]'", "s3a": "'relabel[s3]'"}
# Stores in which a file is there whole or not at all.
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
# Up to this many files are asked for one by one; of more, their folders are listed.
_ASKED, _PER_FOLDER = 10_000, 10
_HEADER = 1 << 16
_NO_CREDENTIALS = re.compile("credential|profile|token|login", re.IGNORECASE)
_REFUSED = (
    "Check the credentials; where listing is not allowed, a file that is missing is refused too."
)


def is_url(place: object) -> TypeGuard[str]:
    """True of a text that begins with a scheme and ``://``.

    >>> [is_url(p) for p in ("s3://bucket/a.jpg", "/data/a.jpg", "zip://data/a.zip!a.jpg")]
    [True, False, False]
    """
    return isinstance(place, str) and _URL.match(place) is not None


def read_remote(url: str, *, most: int) -> bytes:
    """The bytes of a file, in one request.

    Args:
        most: the size beyond which the file is refused.

    Raises:
        DataError: it does not exist, or is larger.
        ConfigError: no library for its scheme is installed, or none knows it.
        RelabelError: the store cannot be reached, or refuses.
    """
    with _store(url) as (system, path):
        try:
            data = system.cat_file(path, end=most + 1)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            # Stores refuse a range of a file without bytes.
            if system.size(path) != 0:
                raise
            return b""
    if len(data) > most:
        raise DataError(f"holds more than {most:,} bytes", file=url, remedy="Check the file.")
    return data


@contextmanager
def open_remote(url: str) -> Iterator[BinaryIO]:
    """A file of which parts are fetched as they are read: for headers, not for whole images.

    Raises:
        DataError, ConfigError, RelabelError: see `read_remote`.
    """
    with _store(url) as (system, path):
        stream = system.open(path, "rb", block_size=_HEADER, cache_type="readahead")
    with stream:
        yield _Errors(stream, url)  # type: ignore[misc]


class _Errors:
    """A stream of which reads raise what `_reaching` says."""

    def __init__(self, stream: Any, url: str) -> None:
        self._stream, self._url = stream, url

    def read(self, size: int = -1) -> bytes:
        with _reaching(self._url):
            return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def remote_size(url: str) -> int:
    """Bytes of a file; -1 if there is none.

    Raises:
        ConfigError, RelabelError: see `read_remote`.
    """
    try:
        with _store(url) as (system, path):
            found = system.info(path)
    except DataError:
        return -1
    return _size(found)


def remote_sizes(urls: Sequence[str]) -> list[int]:
    """`remote_size` of many files, with `CONNECTIONS` requests at a time.

    Of more than 10,000 files in few folders the folders are listed, a thousand files a request.
    """
    folders = dict.fromkeys(url.rpartition("/")[0] for url in urls)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        if len(urls) <= _ASKED or len(folders) * _PER_FOLDER > len(urls):
            return list(pool.map(remote_size, urls))
        listed = dict(zip(folders, pool.map(_files_in, folders), strict=True))
    split = (url.rpartition("/") for url in urls)
    return [listed[folder].get(name, -1) for folder, _, name in split]


def list_remote(url: str) -> dict[str, int]:
    """Bytes of every file below a folder, by its name relative to it; empty where nothing is.

    Folders are listed one by one, `CONNECTIONS` at a time: a store's flat listing of a million
    files would be one after the other, and in memory at once.

    Raises:
        ConfigError, RelabelError: see `read_remote`.
    """
    found: dict[str, int] = {}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        waiting: dict[Future[tuple[list[str], dict[str, int]]], str] = {}
        waiting[pool.submit(_listing, url)] = ""
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                folder = waiting.pop(future)
                folders, files = future.result()
                found.update({f"{folder}{name}": size for name, size in files.items()})
                for name in folders:
                    inner = f"{folder}{name}"
                    waiting[pool.submit(_listing, f"{url.rstrip('/')}/{inner}")] = f"{inner}/"
    return found


def _files_in(url: str) -> dict[str, int]:
    return _listing(url)[1]


def _listing(url: str) -> tuple[list[str], dict[str, int]]:
    """Names of the folders straight in a folder, and of the files with their bytes."""
    folders: list[str] = []
    files: dict[str, int] = {}
    try:
        with _store(url) as (system, path):
            entries = system.ls(path, detail=True)
    except DataError:
        return folders, files
    prefix = f"{path.rstrip('/')}/"
    for entry in entries:
        name = entry["name"].rstrip("/").removeprefix(prefix)
        # A store may list the folder itself, or a file instead of a folder.
        if not name or "/" in name or not entry["name"].startswith(prefix):
            continue
        if entry["type"] == "directory":
            folders.append(name)
        else:
            files[name] = _size(entry)
    return folders, files


def check_output(url: str) -> None:
    """Refuse to write to a URL where a file that is being written could be seen.

    Raises:
        ConfigError: the scheme is none of an object store, or its library is missing.
    """
    scheme = url.partition("://")[0].lower()
    if scheme not in _STORES:
        raise ConfigError(
            f"outputs are not written to {scheme}://",
            file=url,
            remedy=f"Give a folder, or a URL of {', '.join(f'{s}://' for s in _STORES[:-1])}.",
        )
    with _reaching(url):
        _system(url)


def upload(file: Path, url: str) -> None:
    """Put a file of this machine into a store, where it is seen whole or not at all.

    Raises:
        ConfigError, RelabelError: see `read_remote`.
    """
    with _store(url) as (system, path):
        system.put_file(str(file), path)


def download(url: str, file: Path) -> None:
    """Fetch a file; ``file`` may be left in part where this fails.

    Raises:
        DataError, ConfigError, RelabelError: see `read_remote`.
    """
    with _store(url) as (system, path):
        system.get_file(path, str(file))


def remove_remote(url: str) -> None:
    """Remove a file; nothing happens where there is none.

    Raises:
        ConfigError, RelabelError: see `read_remote`.
    """
    try:
        with _store(url) as (system, path):
            system.rm_file(path)
    except DataError:
        return


def _size(entry: dict[str, Any]) -> int:
    return -1 if entry.get("type") == "directory" else int(entry.get("size") or 0)


_import_lock = threading.Lock()


@contextmanager
def _store(url: str) -> Iterator[tuple[Any, str]]:
    """`_system`, for a block whose errors are ours."""
    with _reaching(url):
        yield _system(url)


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its path there.

    fsspec hands out one per process and options, which threads share, and another one after a
    fork; so none is kept here.
    """
    import fsspec

    scheme = url.partition("://")[0].lower()
    try:
        with _import_lock:
            kind = fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        library = _library(scheme, error)
        raise ConfigError(
            f"{scheme}:// needs the library {library}, which is not installed",
            file=url,
            remedy=f"Install it: pip install {_EXTRAS.get(scheme, library)}.",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"no library knows {scheme}://", file=url, remedy="Known are s3://, gs:// and az://."
        ) from error
    if "file" in (kind.protocol if isinstance(kind.protocol, tuple) else (kind.protocol,)):
        raise ConfigError("is a place on this machine", file=url, remedy="Give its path instead.")
    # Listings of a million files would stay in memory, and go stale.
    return fsspec.filesystem(scheme, use_listings_cache=False), kind._strip_protocol(url)


def _library(scheme: str, error: ImportError) -> str:
    from fsspec.registry import known_implementations

    if error.name:
        return error.name
    return known_implementations[scheme]["class"].partition(".")[0]


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Whatever a library raises in the block as one of our errors."""
    try:
        yield
    except RelabelError:
        raise
    except PermissionError as error:
        raise RelabelError(
            f"access is denied: {said_of(error)}", file=url, remedy=_REFUSED
        ) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        if "bucket does not exist" in str(error):
            raise RelabelError(
                "the bucket does not exist", file=url, remedy="Check the URL."
            ) from error
        raise DataError("does not exist", file=url, remedy="Check the URL.") from error
    except Exception as error:
        # Libraries raise errors of their own, which cannot be imported where they are missing.
        named = f"{type(error).__name__} {error}"
        remedy = "Check the network and the endpoint; the same command goes on."
        if _NO_CREDENTIALS.search(named):
            remedy = "Give credentials as for the vendor's own tools, such as $AWS_PROFILE."
        raise RelabelError(
            f"cannot be reached: {said_of(error)}", file=url, remedy=remedy
        ) from error
