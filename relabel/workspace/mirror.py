"""Workspaces in an object store: a folder of this machine that stands for a URL.

Libraries write files, stages look into folders. So the work is done in a temporary folder, whose
path alone says what it stands for: ``/tmp/relabel-mirror-HOST-PID-0/s3/bucket/run/stage.json`` is
``s3://bucket/run/stage.json``, for every process that is handed the path, on any node. What is in
the store counts: it is fetched when a command starts and before a stage, and `atomic_path` puts a
file into the store before the file takes its name here. Stores show a file whole or not at all.

There are no locks in a store. Two processes that make the same shard put the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from relabel.errors import MIRROR, ConfigError, DataError, StageError
from relabel.files.remote import (
    CONNECTIONS,
    check_output,
    download,
    list_remote,
    remove_remote,
    upload,
)
from relabel.files.walk import is_hidden
from relabel.workspace.atomic import TEMP_PREFIX, is_of_dead, temporary_name, url_of

STAGE_FILE = "stage.json"


class Mirror:
    """A folder that stands for a URL while a command runs; it is removed at the end.

    >>> with Mirror("s3://bucket/run") as out:  # doctest: +SKIP
    ...     job.run(out)

    Args:
        url: of a workspace, or of a file.
        file: it is a file's.

    Raises:
        ConfigError: no URL that outputs are written to, or its library is missing.
        StageError: there are files, and none that a stage of relabel has.
        RelabelError: the store cannot be reached, or refuses.
    """

    def __init__(self, url: str, *, file: bool = False) -> None:
        scheme, mark, place = url.partition("://")
        self.url, self.file = f"{scheme}{mark}{place.rstrip('/')}", file
        self._base: Path | None = None

    def __enter__(self) -> Path:
        check_output(self.url)
        scheme, _, place = self.url.partition("://")
        if any(part in ("", ".", "..") for part in place.split("/")):
            raise ConfigError("is no URL of a workspace", file=self.url, remedy="Check --out.")
        _remove_dead()
        name = temporary_name().removeprefix(TEMP_PREFIX)
        self._base = Path(tempfile.gettempdir()) / f"{MIRROR}{name}"
        self._base.mkdir(mode=0o700)
        folder = self._folder = self._base / scheme.lower() / place
        try:
            if self.file:
                folder.parent.mkdir(parents=True)
                ensure(folder)
                return folder
            there = list_remote(self.url)
            if there and not any(name.rpartition("/")[2] == STAGE_FILE for name in there):
                raise StageError(
                    "holds files that relabel did not write",
                    file=self.url,
                    remedy="Choose another --out.",
                )
            _fetch(folder, self.url, there)
            return folder
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # Older versions of click do not say that the command failed.
            if kind is None and sys.exc_info()[0] is None and self._folder.is_dir():
                push(self._folder)
        finally:
            self._remove()

    def _remove(self) -> None:
        if self._base is not None:
            shutil.rmtree(self._base, ignore_errors=True)
            self._base = None


def pull(folder: Path) -> None:
    """Fetch what other processes have put into the store; nothing happens to other folders.

    A file of the same size is the same, but for manifests: a shard says of which run it is.
    """
    url = url_of(folder)
    if url is not None:
        _fetch(folder, url, list_remote(url))


def ensure(file: Path) -> None:
    """Fetch one file, if it stands for one in a store and is not here."""
    url = url_of(file)
    if url is not None and not file.exists():
        _get(url, file)


def _get(url: str, file: Path) -> None:
    """Fetch a file, which is here whole or not at all; whoever reads it says it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temp = file.with_name(temporary_name(file.suffix))
    try:
        download(url, temp)
        temp.replace(file)
    except DataError:
        return
    finally:
        temp.unlink(missing_ok=True)


def push(folder: Path, *, exact: bool = False, beside: Collection[str] = ()) -> None:
    """Put into the store what is in the folder and not there yet.

    Args:
        exact: remove from the store what is not in the folder.
        beside: names in the folder that are left alone.
    """
    url = url_of(folder)
    if url is None:
        return
    here = {name: (folder / name).stat().st_size for name in _visible(folder)}
    there = list_remote(url)
    new = [name for name, size in here.items() if there.get(name) != size]
    old = [name for name in there if name not in here] if exact else []

    def ours(names: Iterable[str]) -> list[str]:
        return [name for name in names if name.partition("/")[0] not in beside]

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda name: upload(folder / name, f"{url}/{name}"), ours(new)))
        list(pool.map(lambda name: remove_remote(f"{url}/{name}"), ours(old)))


def remove(file: Path) -> None:
    """Remove a file, and what it stands for."""
    url = url_of(file)
    if url is not None:
        remove_remote(url)
    file.unlink(missing_ok=True)


def _fetch(folder: Path, url: str, there: dict[str, int]) -> None:
    def fetch(name: str) -> None:
        path = folder / name
        if path.name == STAGE_FILE or not path.is_file() or path.stat().st_size != there[name]:
            _get(f"{url}/{name}", path)

    names = [name for name in there if not any(map(is_hidden, name.split("/")))]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(fetch, names))


def _visible(folder: Path) -> list[str]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        inside = Path(root).relative_to(folder)
        found += [(inside / name).as_posix() for name in names if not is_hidden(name)]
    return found


def _remove_dead() -> None:
    """Remove the folders of commands that were killed on this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{MIRROR}*"):
        if is_of_dead(path.name.removeprefix(MIRROR)):
            shutil.rmtree(path, ignore_errors=True)
