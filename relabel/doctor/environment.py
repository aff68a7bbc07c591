"""What this machine offers relabel: packages, devices, FiftyOne's database, disk.

Nothing here imports the packages it looks for; what has to be loaded or started is tried in a
process of its own, so that a broken package cannot take the report down.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from relabel import __version__
from relabel.doctor.database import mongod_version, why_no_database
from relabel.workspace.cores import usable_cores

_SHOWN = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pyarrow",
    "pycocotools",
    "msgspec",
    "hotcoco",
    "fiftyone",
)
_LOW_DISK = 10e9

# Receives a problem's severity, message and remedy.
Note = Callable[[str, str, str], None]

_TORCH = """
import json, sys
out = {"loads": False, "cuda": [], "mps": False}
try:
    import torch
    out["cuda"] = [
        {"name": p.name, "memory": p.total_memory}
        for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ] if torch.cuda.is_available() else []
    out["cuda_build"] = torch.version.cuda
    out["mps"] = bool(torch.backends.mps.is_available())
    from torchvision.ops import nms
    boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    out["loads"] = kept == [0, 2]
    out["error"] = None if out["loads"] else f"nms kept {kept} instead of [0, 2]"
except BaseException as error:
    out["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(out), file=sys.__stdout__)
"""

_DATABASE = """
import contextlib, json, os, sys, time
began, out = time.monotonic(), {"starts": False}
with contextlib.redirect_stdout(sys.stderr):
    try:
        from relabel.viewer import start
        fo = start()
        out["mongod"] = fo.core.odm.get_db_client().server_info()["version"]
        out["starts"] = True
    except BaseException as raised:
        error = raised.__cause__ or raised
        out["error"] = f"{type(error).__name__}: {error}"
out["seconds"] = round(time.monotonic() - began, 1)
print(json.dumps(out), file=sys.__stdout__)
"""


def inspect(*, database: bool = True, timeout: float = 120.0) -> dict[str, Any]:
    """Look at the machine.

    Args:
        database: start FiftyOne's database in a temporary folder.
        timeout: seconds to wait for each thing that is tried in a process of its own.

    Returns:
        A JSON-ready dict: ``ok``, ``versions``, ``devices``, ``torch``, ``database``, ``disk``,
        ``cache``, ``huggingface`` and ``problems``, a list of ``{"severity": "error" | "warning",
        "message", "remedy"}``; ``ok`` is False if one of them is an error.
    """
    problems: list[dict[str, str]] = []

    def note(severity: str, message: str, remedy: str) -> None:
        problems.append({"severity": severity, "message": message, "remedy": remedy})

    versions = _versions()
    _requirements(note)
    torch = _run(_TORCH, timeout) if versions["torch"] else {"error": "torch is not installed"}
    if versions["torch"] and not torch.get("loads"):
        note(
            "error",
            f"torch and torchvision do not work together: {_line(torch.get('error'))}",
            "Install a matching pair: `pip install --upgrade torch torchvision`.",
        )
    report = {
        "versions": versions,
        "devices": {
            "cpu_cores": usable_cores(),
            "memory_bytes": _memory(),
            "cuda": torch.get("cuda", []),
            "cuda_build": torch.get("cuda_build"),
            "mps": bool(torch.get("mps")),
        },
        "torch": {"works_with_torchvision": bool(torch.get("loads")), "error": torch.get("error")},
        "database": _database(versions, note, start=database, timeout=timeout),
        "disk": _disk(note),
        "cache": _cache(note),
        "huggingface": _huggingface(),
    }
    ok = not any(p["severity"] == "error" for p in problems)
    return {"ok": ok, **report, "problems": problems}


def _line(text: object) -> str:
    lines = str(text or "unknown error").strip().splitlines()
    return lines[-1].rstrip(".") if lines else "unknown error"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "relabel": __version__,
    }
    versions.update({package: _version(package) for package in _SHOWN})
    versions["mongod"] = mongod_version()
    return versions


def _requirements(note: Note) -> None:
    """Problems with what relabel's own package metadata asks for."""
    try:
        wanted = metadata.requires("relabel") or []
    except metadata.PackageNotFoundError:
        wanted = [p for p in _SHOWN if p != "fiftyone"]
    try:
        from packaging.requirements import Requirement
    except ImportError:
        note("error", "packaging is not installed", "Run `pip install packaging`.")
        return
    for text in wanted:
        requirement = Requirement(text)
        view = requirement.name == "fiftyone"
        if requirement.marker and not requirement.marker.evaluate({"extra": "view" * view}):
            continue
        found = _version(requirement.name)
        need = f"{requirement.name}{requirement.specifier}"
        if found is None:
            message = f"{requirement.name} is not installed"
        elif not requirement.specifier.contains(found, prereleases=True):
            message = f"{requirement.name} {found} does not meet {need}"
        else:
            continue
        if view:
            message += "; `relabel view` needs it"
            note("warning", message, "Run `pip install relabel[view]`.")
        else:
            note("error", message, f"Run `pip install '{need}'`.")


def _run(code: str, timeout: float, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run code that prints one JSON object; whatever goes wrong comes back as ``error``."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {timeout:g} seconds"}
        finally:
            # Also the services that the code has started.
            for sign in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, sign)
                    process.wait(5)
                except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                    pass
        output.seek(0)
        errors.seek(0)
        for line in reversed(output.read().decode(errors="replace").splitlines()):
            if line.startswith("{"):
                return json.loads(line)
        tail = _line(errors.read().decode(errors="replace"))
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return {"error": f"ended with {how}: {tail}"}


def _database(
    versions: Mapping[str, str | None],
    note: Note,
    *,
    start: bool,
    timeout: float,
) -> dict[str, Any]:
    uri = os.environ.get("FIFTYONE_DATABASE_URI")
    state: dict[str, Any] = {
        "tested": False,
        "starts": None,
        "mongod": versions["mongod"],
        "uri_set": bool(uri),
        "error": None,
    }
    if not versions["fiftyone"]:
        return state
    if not uri and versions["mongod"] is None:
        note("warning", *why_no_database(""))
        return state
    if not start:
        return state
    with tempfile.TemporaryDirectory(
        prefix="relabel-doctor-", ignore_cleanup_errors=True
    ) as folder:
        env = {"FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_DIR": folder}
        try:
            found = _run(_DATABASE, timeout, env)
        finally:
            _end_services(folder)
    error = found.get("error")
    state.update(tested=True, starts=bool(found.get("starts")), error=error)
    state["mongod"] = found.get("mongod", state["mongod"])
    state["seconds"] = found.get("seconds")
    if not state["starts"]:
        note("warning", *why_no_database(_line(error), anew=True))
    return state


def _end_services(folder: str) -> None:
    """End the database processes that work in ``folder``; FiftyOne starts them detached."""
    try:
        import psutil
    except ImportError:
        return
    own = []
    for process in psutil.process_iter(["cmdline"]):
        if folder in (process.info["cmdline"] or ()):
            own.append(process)
            with suppress(psutil.Error):
                process.terminate()
    for process in psutil.wait_procs(own, timeout=10)[1]:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(own, timeout=5)


def _memory() -> int | None:
    """Physical memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        try:
            import psutil
        except ImportError:
            return None
        return int(psutil.virtual_memory().total)


def _disk(note: Note) -> dict[str, Any]:
    places = {"work": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    free = {}
    for name, path in places.items():
        try:
            free[name] = {"path": str(path), "free_bytes": shutil.disk_usage(path).free}
        except OSError as error:
            free[name] = {"path": str(path), "free_bytes": None}
            note("error", f"{path}: {error.strerror or error}", "Use another folder.")
    if (low := free["work"]["free_bytes"]) is not None and low < _LOW_DISK:
        note(
            "warning",
            f"only {low / 1e9:.1f} GB free in {places['work']}",
            "Free some space before training; checkpoints and shards take a few GB.",
        )
    return free


def _cache(note: Note) -> dict[str, Any]:
    """Where transformers and torchvision keep downloaded weights, and whether that is writable."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    hub = os.environ.get("HF_HUB_CACHE") or Path(
        os.environ.get("HF_HOME") or home / "huggingface"
    ).joinpath("hub")
    torch_home = os.environ.get("TORCH_HOME") or home / "torch"
    state = {}
    for name, variable, path in (
        ("huggingface", "HF_HOME", Path(hub).expanduser()),
        ("torch", "TORCH_HOME", Path(torch_home).expanduser()),
    ):
        existing = next((p for p in (path, *path.parents) if p.exists()), path)
        writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        state[name] = {"path": str(path), "writable": writable}
        if not writable:
            note(
                "warning",
                f"the cache {path} is not writable, so weights cannot be downloaded",
                f"Set {variable} to a folder that is.",
            )
    return state


def _huggingface() -> dict[str, Any]:
    def on(name: str) -> bool:
        return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}

    return {
        "offline": on("HF_HUB_OFFLINE") or on("TRANSFORMERS_OFFLINE"),
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
