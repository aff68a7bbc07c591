"""How fast is what relabel does on a GPU, and is it right there? From a bare machine to figures.

    python benchmarks/gpu.py --json gpu.json --out benchmarks/gpu.md

Needs a checkout and a Python with torch, torchvision, transformers, accelerate, pyarrow, SciPy,
Pillow and pytest; neither relabel's own installation nor a network. What a machine lacks of the
other packages (msgspec for all of it, pycocotools for regions) can lie beside the checkout as
wheels, named with --wheels FOLDER. Networks have random weights, photos are made up. Where there is
no GPU, or with --size cpu, the same code runs on tiny models, which tells that it works and nothing
else.

A call takes 480 seconds at most (--limit-s). Every section is a process of its own: one that
fails, hangs or brings the GPU down loses its own figures alone. The JSON is written after each, and
the same command goes on where it was stopped: what is done is kept as long as source, card and size
are the same. A section without enough time is left for the next call. Exit status 0: all sections
are there; 1: some are not.

What is measured: medians over repetitions after some that do not count, the GPU waited for at each.

- The suite's tests marked `cuda`: losses, detections, labels, regions and masks equal to the CPU's.
- Faster R-CNN and RT-DETRv2 (ResNet-50, preset `standard`, photos of 640 x 480, 80 classes, 8 boxes
  each), in mixed precision: steps of real trainings, from files and with batches in memory;
  inference as the forward pass alone and from decoded images.
- Cross-labelling from JPEGs to shards, against that forward pass.
- LAT: regions pooled for its bank, and its training step beside one of Faster R-CNN on as many
  images.
- MaskCut on a DINOv3 ViT-L/16 at 896 px, photos of 500 x 375: decoding, backbone, cuts and the
  CRF alone, then the whole stage, where they overlap. Random weights have no tau of their own: the
  one is taken that makes a fifth of the pairs of patches neighbours, as photos have at published
  ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.on_gpu import PRELOAD, SECTIONS, Section, run  # noqa: E402

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "numpy")
RESERVE = 5.0  # seconds of the limit for the end
# Sections have seconds on a GPU; the tiny ones of a CPU measure for so much of them.
CPU_SHARE = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--limit-s", type=float, default=480, help="seconds for all sections")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="result; is resumed")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="only these, in this order")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use beside what is there")
    parser.add_argument("--folder", type=Path, help="where files are made; default the system's")
    options = parser.parse_args()
    started = time.monotonic()
    chosen = options.sections.split(",")
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        parser.error(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="relabel-gpu-") as place:
        prepare(Path(place), options.wheels)
        result = begin(options.json, options.size)
        save(options.json, result)
        for name in chosen:
            if result["sections"].get(name, {}).get("state") == "done":
                say(f"{name}: done before")
                continue
            left = options.limit_s - RESERVE - (time.monotonic() - started)
            result["sections"][name] = measure(SECTIONS[name], result["size"], Path(place), left)
            save(options.json, result)
            say(f"{name}: {outcome(result['sections'][name])}")
    text = page(result)
    print(text)
    if options.out is not None:
        write(options.out, text + "\n")
    states = [result["sections"].get(name, {}).get("state") for name in SECTIONS]
    return 0 if all(state == "done" for state in states) else 1


def prepare(place: Path, wheels: Path | None) -> None:
    """An environment that every section's process inherits."""
    paths = [str(ROOT)]
    if wheels is not None:
        site = str(place / "site")
        install = ["install", "-q", "--no-index", "--no-deps", "--no-compile", "--target", site]
        files = sorted(map(str, wheels.glob("*.whl")))
        subprocess.run([sys.executable, "-m", "pip", *install, *files], check=True)
        paths.insert(0, site)
        sys.path.insert(0, site)
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *([known] if known else [])])
    os.environ["HF_HUB_OFFLINE"] = "1"
    # A process that is forked cannot use a CUDA that was looked at otherwise before.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)


def begin(file: Path, size: str) -> dict[str, Any]:
    """The result so far: what ``file`` holds of the same source, card and size."""
    # In a process of its own, so that this one and what is forked later has no CUDA.
    card = in_process("machine:card", "cpu", Path(), 0, 120).get("figures", {})
    chosen = size if size != "auto" else "gpu" if card.get("card") else "cpu"
    result = {
        "size": chosen,
        "source": source(),
        "commit": commit(),
        "card": card.get("card"),
        "machine": {
            **card,
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            **{name: installed(name) for name in PACKAGES},
        },
        "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "sections": {},
    }
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        if all(before[key] == result[key] for key in ("size", "source", "card")):
            kept = before["sections"].items()
            result["sections"] = {name: row for name, row in kept if row["state"] == "done"}
        else:
            say(f"{file} is of another source, card or size: all sections are measured anew")
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        say(f"{file} cannot be read: all sections are measured anew")
    return result


def measure(section: Section, size: str, place: Path, left: float) -> dict[str, Any]:
    """Run a section, if there is time for it."""
    least = section.least if size == "gpu" else 0
    if left <= max(0, least):
        why = f"{max(0, left):.0f} s were left, it takes {least:.0f} s or more"
        return {"state": "left for the next call", "why": why}
    most = min(left, section.most) if size == "gpu" else left
    share = 1.0 if size == "gpu" or section.work.startswith("suite") else CPU_SHARE
    measuring = share * min(section.measuring, section.measuring * most / section.most)
    started = time.monotonic()
    row = in_process(section.work, size, place, measuring, most)
    return {**row, "seconds": round(time.monotonic() - started, 2)}


def in_process(work: str, size: str, place: Path, seconds: float, most: float) -> dict[str, Any]:
    """Run a function in a process of its own, for ``most`` seconds at most."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    process = context.Process(target=run, args=(work, size, str(place), seconds, there))
    process.start()
    there.close()
    row: dict[str, Any] = {"state": "failed", "error": [f"stopped after {most:.0f} s"]}
    with suppress(EOFError, ConnectionError):
        try:
            if here.poll(most):
                row = here.recv()
        except (EOFError, ConnectionError):
            process.join()
            row["error"] = [f"the process ended with status {process.exitcode}"]
            raise
    here.close()
    process.join(3)
    # What it started, too.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, 9)
    process.kill()
    process.join()
    return row


def source() -> str:
    """Of all files that figures depend on, where there may be no git."""
    digest = hashlib.sha256()
    for folder in ("relabel", "benchmarks/on_gpu", "tests"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def commit() -> str | None:
    """The checkout's commit, if it is one; ``-dirty`` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=-3).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], stderr=-3)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def save(file: Path, result: dict[str, Any]) -> None:
    write(file, json.dumps(result, indent=1) + "\n")


def write(file: Path, text: str) -> None:
    """The whole file or none of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)


def outcome(row: dict[str, Any]) -> str:
    """In a line."""
    said = [row["state"]]
    if "seconds" in row:
        said.append(f"{row['seconds']:.0f} s")
    if "why" in row:
        said.append(row["why"])
    if row.get("error"):
        said.append(row["error"][-1])
    return ", ".join(said)


def page(result: dict[str, Any]) -> str:
    """Everything as Markdown."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {machine.get(name)}" for name in ("python", *PACKAGES))
    lines = [
        "# On a GPU",
        "",
        *(__doc__ or "").strip().splitlines(),
        "",
        "## Figures",
        "",
    ]
    if result["size"] == "cpu":
        lines += [
            "There are no figures of a GPU yet: none was at hand. These are the CPU's of tiny "
            "models and images. They tell that every section runs, and nothing of speed.",
            "",
        ]
    lines += [
        f"{result['date']}, {result['card'] or 'no GPU'}"
        + (f" (driver {machine.get('driver')}, CUDA {machine.get('cuda')})" * bool(result["card"]))
        + f", {machine['cores']} cores, {versions}; source {result['source']}, commit "
        f"{result['commit'] or 'not known'}, `{result['command']}`.",
        "",
        "| section | figure | value | aim | met |",
        "|---|---|---:|---|---|",
    ]
    for name, section in SECTIONS.items():
        row = result["sections"].get(name, {"state": "not run"})
        lines.append(f"| **{section.title}** | {outcome(row).replace('|', '/')} | | | |")
        aims = row.get("aims", {})
        for figure, value in row.get("figures", {}).items():
            if figure not in aims:
                lines.append(f"| | {figure} | {shown(value)} | | |")
        for aim, told in aims.items():
            met = "yes" if told["met"] else "no"
            lines.append(f"| | {aim} | {shown(told['value'])} | {told['wanted']} | {met} |")
        if "peak_bytes" in row:
            kind = "GPU memory" if result["size"] == "gpu" else "memory"
            lines.append(f"| | peak of {kind}, MiB | {row['peak_bytes'] / 2**20:,.0f} | | |")
    return "\n".join(lines)


def shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
