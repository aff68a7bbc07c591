"""Results in FiftyOne: found on disk, loaded into its database, shown in its App.

Importing this module does not import fiftyone; `start` does, and says what to do where it is
missing or its database does not run.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib
import json
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relabel.doctor.database import why_no_database
from relabel.errors import ConfigError, DataError, Problems
from relabel.files.json_text import parse_json, read_object
from relabel.review import edits
from relabel.review.edits import INFO_KEY
from relabel.review.suspects import RunCheck, add_suspects, mark_suspects
from relabel.saved_views import save_change_views, save_suspect_views
from relabel.workspace.fingerprint import file_fingerprint
from relabel.workspace.progress import message, tell_problems

if TYPE_CHECKING:
    from relabel.datasets.dataset import DetectionDataset

TRUTH = "truth"
_BATCH = 1000  # samples
_PICTURES = 0.72  # of the App's width, the rest is the review's

# Source boxes lie under transferred ones; these stay apart for most kinds of colour vision.
_FIELD_COLORS = {
    "source": "#ff9f1c",
    "removed": "#e0218a",
    "rejected": "#8a8f98",
    "truth": "#3ddc84",
    "suspects": "#ffee00",
    "transferred": "#00d0e0",
    "ground_truth": "#00d0e0",
}
_PSEUDO_COLORS = ("#c77dff", "#9ef01a", "#ff6b9a", "#ffe45e", "#7aa2ff")


_PLUGINS: list[tempfile.TemporaryDirectory[str]] = []  # of this process, until it ends


@dataclass(frozen=True)
class SourceFolder:
    """One source of a result: a FiftyOne dataset folder, or a COCO file where there is none."""

    name: str
    path: Path


def find_sources(result: Path) -> list[SourceFolder]:
    """The sources in a command's output folder, one source's folder, or a bare COCO file.

    Raises:
        DataError: nothing to show there.
    """
    if not result.exists():
        raise DataError(
            "does not exist", file=result, remedy="Give the folder that `relabel align` wrote."
        )
    if result.is_file():
        return [SourceFolder(result.stem, result)]
    # One set of images: a source's folder, or what imagenet-multilabel wrote.
    for folder in (result, result / "result"):
        single = _source_folder(folder, result.resolve().name)
        if single is not None:
            return [single]
    for folder in (result / "result", result):
        if folder.is_dir():
            children = sorted(c for c in folder.iterdir() if c.is_dir())
            found = [s for c in children if (s := _source_folder(c, c.name)) is not None]
            if found:
                return found
    raise DataError(
        "holds no result of align or imagenet-multilabel",
        file=result,
        remedy="Give the folder that the command wrote, or a COCO file.",
    )


def _source_folder(folder: Path, name: str) -> SourceFolder | None:
    for place in (folder / "fiftyone", folder):
        if (place / "metadata.json").is_file() and (place / "samples.json").is_file():
            return SourceFolder(name, place)
    coco = folder / "annotations.json"
    return SourceFolder(name, coco) if coco.is_file() else None


def start() -> Any:
    """The fiftyone module, with its database running.

    Raises:
        ConfigError: fiftyone is not installed, or its database does not start.
    """
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    try:
        fo = importlib.import_module("fiftyone")
    except ModuleNotFoundError as error:
        absent = (error.name or "").partition(".")[0] == "fiftyone"
        raise ConfigError(
            "fiftyone is not installed" if absent else f"fiftyone cannot be imported: {error}",
            remedy="Run `pip install relabel[view]`.",
        ) from error
    except Exception as error:
        raise _database_error(error) from error
    logging.getLogger("fiftyone").setLevel(logging.ERROR)
    fo.config.show_progress_bars = fo.config.show_progress_bars and sys.stderr.isatty()
    _wait_longer(fo)
    _add_plugin(fo)
    try:
        fo.list_datasets()
    except Exception as error:
        raise _database_error(error) from error
    return fo


def _wait_longer(fo: Any) -> None:
    """Let FiftyOne wait for its own processes for five minutes.

    It gives them one, which a busy machine or a network disk can exceed. Where a version of
    FiftyOne is built differently, its own limit stays.
    """
    service = getattr(getattr(fo.core, "service", None), "Service", None)
    wait = getattr(service, "_wait_for_child_port", None)
    if wait is not None and wait.__defaults__ == (None, 60):
        wait.__defaults__ = (None, 300)


def _database_error(error: Exception) -> ConfigError:
    message, remedy = why_no_database(_reason(error))
    return ConfigError(message, remedy=f"{remedy} Without it all but `relabel view` works.")


def _reason(error: Exception) -> str:
    """The first line of an error's message."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__


def load(
    fo: Any,
    sources: Sequence[SourceFolder],
    name: str,
    *,
    images: Path | None = None,
    truth: Mapping[str, Path] | None = None,
) -> Any:
    """Load sources into one persistent FiftyOne dataset, or reuse what was loaded before.

    A dataset of this name whose files have changed since is replaced. Samples are tagged with
    their source's name.

    Args:
        fo: the fiftyone module.
        name: name of the FiftyOne dataset.
        images: folder of the images, for COCO files that do not find theirs.
        truth: by source, a COCO file of its images as they should be labelled.

    Raises:
        ConfigError: the name belongs to a dataset that relabel did not make, or truth is given
            for what is no source.
        DataError: a file is damaged, or the images are not found.
    """
    truth = truth or {}
    names = [source.name for source in sources]
    for unknown in sorted(truth.keys() - set(names)):
        raise ConfigError(
            f"truth is given for {unknown!r}, which is no source of this result",
            remedy=f"Its sources are {', '.join(names)}.",
        )
    fingerprint = _fingerprint(sources, images, truth)
    if fo.dataset_exists(name):
        dataset = fo.load_dataset(name)
        mark = (dataset.info or {}).get(INFO_KEY)
        if not isinstance(mark, dict):
            raise ConfigError(
                f"FiftyOne has a dataset {name!r} that relabel did not make",
                remedy="Choose another with --name.",
            )
        if mark.get("fingerprint") == fingerprint:
            message(f"FiftyOne dataset {name!r}: {len(dataset):,} images, unchanged")
            return dataset
        left = edits.unexported(dataset)
        if left:
            raise ConfigError(
                f"the result has changed, and FiftyOne dataset {name!r} holds decisions about "
                f"{left:,} labels of the earlier one that were not exported",
                remedy="Run `relabel review export RUN` first, or load it under another --name.",
            )
        message(f"FiftyOne dataset {name!r}: the result has changed, loading it again")
    # Only a complete dataset gets the name, whatever interrupts the loading.
    partial = f"{name}-loading"
    dataset = fo.Dataset(partial, overwrite=True)
    for source in sources:
        message(f"loading {source.name}")
        ids = _add(fo, dataset, source, images)
        dataset.select(ids).match_tags(source.name, bool=False).tag_samples(source.name)
        if source.name in truth:
            _add_truth(fo, dataset, ids, truth[source.name])
    dataset.info = {
        INFO_KEY: {
            "fingerprint": fingerprint,
            "files": _fingerprint(sources, images),
            "sources": [s.name for s in sources],
            "categories": _categories(sources),
        }
    }
    edits.prepare(fo, dataset)
    _dress(fo, dataset)
    save_change_views(fo, dataset)
    save_suspect_views(fo, dataset)
    dataset.save()
    if fo.dataset_exists(name):
        fo.delete_dataset(name)
    try:
        dataset.name = name
    except ValueError as error:
        raise ConfigError(
            f"FiftyOne takes no dataset called {name!r}: {_reason(error)}",
            remedy="Choose another with --name.",
        ) from error
    dataset.persistent = True
    first = dataset.first().filepath if len(dataset) else None
    if first and not Path(first).is_file():
        message(f"warning: images are not where the result expects them, such as {first}")
    message(f"FiftyOne dataset {name!r}: {len(dataset):,} images")
    return dataset


def load_suspects(fo: Any, dataset: Any, sources: Sequence[SourceFolder], check: RunCheck) -> None:
    """Put the suspects of a run's check into its FiftyOne dataset, whose labels stay.

    Raises:
        DataError: the run's files do not belong together.
    """
    fields = dataset.get_field_schema()
    if add_suspects(fo, dataset, check, labels_as_loaded(dataset, sources)):
        if fields != dataset.get_field_schema():
            _dress(fo, dataset)
        save_suspect_views(fo, dataset)
        mark_suspects(dataset, check)


def default_name(result: Path) -> str:
    """The FiftyOne dataset of a result that was given no name."""
    return f"relabel-{result.resolve().stem}"


def result_folder(run: Path) -> Path:
    """The folder with the images of a run: its ``result``, or where one source's folder lies."""
    if run.is_dir():
        return run / "result" if (run / "result").is_dir() else run
    return run.parent


def labels_as_loaded(dataset: Any, sources: Sequence[SourceFolder]) -> dict[str, DetectionDataset]:
    """The transferred labels that a FiftyOne dataset was loaded with, by source.

    None of a source whose files have changed since.
    """
    from relabel.datasets.formats.fiftyone import read as fiftyone_format

    mark = (dataset.info or {}).get(INFO_KEY)
    if not isinstance(mark, dict) or mark.get("files") != _fingerprint(sources, None):
        return {}
    found = {}
    for source in sources:
        if source.path.is_dir():
            problems = Problems(skip_bad=True)
            found[source.name] = fiftyone_format.read(
                source.path, name=source.name, split=None, problems=problems
            )
    return found


def _categories(sources: Sequence[SourceFolder]) -> dict[str, int]:
    """Ids of the target's classes by name, from the folders of a result."""
    found: dict[str, int] = {}
    for source in sources:
        if source.path.is_dir():
            file = source.path / "metadata.json"
            info = read_object(file).get("info", {})
            text = info.get(INFO_KEY) if isinstance(info, dict) else None
            told = parse_json(text.encode(), file) if isinstance(text, str) else {}
            rows = told.get("categories", {}).get(edits.TRANSFERRED, [])
            found |= {str(row["name"]): int(row["id"]) for row in rows if row["name"] not in found}
    return found


def _add_plugin(fo: Any) -> None:
    """Put the review's plugin beside the user's own, whose folder stays as it is.

    FiftyOne knows one folder of plugins; it is given one that links to both.
    """
    if _PLUGINS:
        return
    given = Path(getattr(fo.config, "plugins_dir", None) or "")
    folder = tempfile.TemporaryDirectory(prefix="relabel-plugins-", ignore_cleanup_errors=True)
    _PLUGINS.append(folder)
    ours = Path(__file__).parent / "review" / "plugin"
    (Path(folder.name) / "relabel-review").symlink_to(ours, target_is_directory=True)
    if given.name and given.is_dir():
        (Path(folder.name) / "given").symlink_to(given.resolve(), target_is_directory=True)
    fo.config.plugins_dir = folder.name
    os.environ["FIFTYONE_PLUGINS_DIR"] = folder.name  # of the App's server, a process of its own


def _dress(fo: Any, dataset: Any) -> None:
    """Fixed colours for the label fields; pseudo-labels start hidden, to be ticked when wanted."""
    fields = list(dataset.get_field_schema(embedded_doc_type=fo.Detections))
    others = [f for f in fields if f not in _FIELD_COLORS]
    colors = {f: _PSEUDO_COLORS[k % len(_PSEUDO_COLORS)] for k, f in enumerate(others)}
    colors |= {f: c for f, c in _FIELD_COLORS.items() if f in fields}
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="field", fields=[{"path": f, "fieldColor": c} for f, c in colors.items()]
    )
    shown = [f for f in fields if f in _FIELD_COLORS] or fields
    dataset.app_config.active_fields = fo.core.odm.ActiveFields(exclude=False, paths=shown)


def _add(fo: Any, dataset: Any, source: SourceFolder, images: Path | None) -> list[str]:
    """Add one source's samples; returns their ids."""
    if source.path.is_dir():
        return _import(fo, dataset, source.path, source.path)
    from relabel.datasets.formats.coco import read as coco
    from relabel.datasets.formats.fiftyone import write as fiftyone_format
    from relabel.datasets.pixels.location import image_location

    problems = Problems(skip_bad=True)
    data = coco.read(source.path, name=source.name, split=None, problems=problems)
    tell_problems(problems)
    if images is not None:
        data = replace(data, root=images.resolve())
    if len(data) and not Path(image_location(data, 0)).is_file():
        raise DataError(
            "images are not found",
            file=image_location(data, 0),
            remedy="Say where they are with --images FOLDER.",
        )
    with tempfile.TemporaryDirectory(prefix="relabel-view-", ignore_cleanup_errors=True) as folder:
        fiftyone_format.write(data, Path(folder))
        return _import(fo, dataset, Path(folder), source.path)


def _import(fo: Any, dataset: Any, folder: Path, file: Path) -> list[str]:
    try:
        return dataset.add_dir(
            dataset_dir=str(folder.resolve()), dataset_type=fo.types.FiftyOneDataset
        )
    except Exception as error:  # its database takes less than its files may hold
        raise DataError(
            f"not a FiftyOne dataset that can be imported: {_reason(error)}",
            file=file,
            remedy="Write it again with `relabel align`.",
        ) from error


def _add_truth(fo: Any, dataset: Any, ids: Sequence[str], file: Path) -> None:
    """Put the boxes of a COCO file into the field `TRUTH`, joined by file name.

    Raises:
        DataError: the file is damaged, or has none of the images.
    """
    from relabel.datasets.formats.coco import read as coco

    problems = Problems(skip_bad=True)
    data = coco.read(file, name=TRUTH, split=None, problems=problems)
    tell_problems(problems)
    rows = {name: row for row, name in enumerate(data.images.file_name)}
    names, boxes = data.space.names, data.boxes
    found = 0
    for start in range(0, len(ids), _BATCH):
        batch = dataset.select(list(ids[start : start + _BATCH]))
        values = []
        for name in batch.values("file_name"):
            row = rows.get(name)
            found += row is not None
            at = data.rows(row) if row is not None else slice(0, 0)
            size = 1.0 if row is None else [data.images.width[row], data.images.height[row]] * 2
            values.append(
                fo.Detections(
                    detections=[
                        fo.Detection(label=names[c], bounding_box=box, ignore=bool(ignore))
                        for c, box, ignore in zip(
                            boxes.category[at].tolist(),
                            (boxes.xywh[at] / size).tolist(),
                            boxes.ignore[at].tolist(),
                            strict=True,
                        )
                    ]
                )
                if row is not None
                else None
            )
        batch.set_values(TRUTH, values)
    if ids and not found:
        raise DataError(
            "has none of the source's images, by their file names",
            file=file,
            remedy="Give the truth of the very images that were relabelled.",
        )


def _fingerprint(
    sources: Sequence[SourceFolder], images: Path | None, truth: Mapping[str, Path] | None = None
) -> str:
    """Hash of the files to load and of where they are (stored images are found relative to it)."""
    digest = hashlib.sha256(str(images and images.resolve()).encode())
    for name, file in sorted((truth or {}).items()):
        digest.update(json.dumps([TRUTH, name, file_fingerprint(file)]).encode())
    for source in sources:
        whole = source.path.is_dir()
        names = ("metadata.json", "samples.json") if whole else ("",)
        files = [source.path / name for name in names]
        for file in files:
            digest.update(json.dumps([source.name, str(file.resolve())]).encode())
            digest.update(file_fingerprint(file).encode())
    return digest.hexdigest()


def check_port(address: str, port: int) -> None:
    """Raise ConfigError if something already listens there (FiftyOne would join it unasked)."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ConfigError(
                f"cannot serve at {address}:{port}: {error.strerror or error}",
                remedy="Close the App that runs there, or choose another --port.",
            ) from error


def _spaces(fo: Any, dataset: Any) -> Any:
    """The pictures, and beside them the panel of the review where there is anything to review."""
    if not edits.is_reviewable(dataset):
        return None
    panels = [fo.Panel(type="Samples", pinned=True), fo.Panel(type="relabel_review")]
    pictures, review = (fo.Space(children=[p], active_child=p.component_id) for p in panels)
    return fo.Space(
        children=[pictures, review], orientation="horizontal", sizes=[_PICTURES, 1 - _PICTURES]
    )


def show(
    fo: Any,
    dataset: Any,
    *,
    port: int,
    address: str,
    browser: bool,
    remote: bool,
) -> None:
    """Open the App on a dataset and wait until it is closed, or for Ctrl-C.

    Args:
        browser: open a browser here; without one the App waits for Ctrl-C only.
        remote: say how to reach the App from another machine.

    Raises:
        ConfigError: the App's server does not start.
    """
    try:
        session = fo.launch_app(
            dataset, port=port, address=address, remote=not browser, spaces=_spaces(fo, dataset)
        )
    except Exception as error:
        raise ConfigError(
            f"the FiftyOne App's server does not start: {_reason(error)}",
            remedy="The dataset is loaded; try again, or choose another --port.",
        ) from error
    local = "localhost" if address in ("0.0.0.0", "::", "127.0.0.1") else address
    url = f"http://{local}:{port}/datasets/{dataset.slug}"
    if remote:
        host = f"{getpass.getuser()}@{socket.gethostname()}"
        message("on your own machine, run")
        message(f"    ssh -N -L {port}:{local}:{port} {host}")
        message(f"and open {url.replace(local, 'localhost', 1)}")
    else:
        message(f"FiftyOne App at {url}")
    message("Ctrl-C ends it.")
    try:
        session.wait(3 if browser else -1)
    except KeyboardInterrupt:
        message("closed")
    finally:
        session.close()
