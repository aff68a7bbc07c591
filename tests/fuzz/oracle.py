"""What must hold of every run, whatever the input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.forks import Ran
from tests.fuzz.subjects.base import DATA, OUT, OUTSIDE

MEMORY_MIB = 1024
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WRITTEN = re.compile(r"(\d+) images? and (\d+) box(?:es)? written to (.+)")
_NOISE = re.compile(r"^.*\w+Warning: |^Exception in thread|^Exception ignored|^Traceback", re.M)
# What relabel runs for a second command, on what the first one wrote.
Again = Callable[[list[str]], Ran]


def snapshot(root: Path) -> dict[str, str]:
    """Kind, mode and content of everything below a folder; opens regular files only."""
    found = {}
    for folder, names, files in os.walk(os.fsencode(root)):
        for name in [*names, *files]:
            path = os.path.join(folder, name)  # noqa: PTH118 - names may be no text
            about = os.lstat(path)
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path)  # noqa: PTH115
            elif stat.S_ISREG(about.st_mode):
                with open(path, "rb") as stream:  # noqa: PTH123
                    content = stream.read()
            else:
                content = b""
            digest = hashlib.sha256(content).hexdigest()
            found[os.fsdecode(path)] = f"{stat.filemode(about.st_mode)} {digest}"
    return found


def judge(
    case: Case, ran: Ran, base: float, folder: Path, before: dict[str, str], again: Again
) -> list[str]:
    """What is wrong with a run.

    Args:
        base: MiB that a child holds which does nothing.
        before: `snapshot` of the input.
    """
    out, err = ran.out.decode("utf-8", "replace"), ran.err.decode("utf-8", "replace")
    wrong = list(_ending(case, ran, out, err))
    if ran.memory - base > MEMORY_MIB:
        wrong.append("memory: more than 1 GB")
    if _NOISE.search(err):
        line = next(line for line in err.splitlines() if _NOISE.search(line))
        wrong.append(f"noise: {line}")
    bad = _CONTROL.search(err) or _CONTROL.search(out)
    if bad or b"\xed\xa0" in ran.out + ran.err:
        wrong.append(f"control character {bad.group()!r} is printed" if bad else "surrogate")
    if "--json" in case.args and ran.status == 0:
        try:
            json.loads(out)
        except ValueError:
            wrong.append("--json printed no JSON")
    after = snapshot(folder / DATA) | snapshot(folder / OUTSIDE)
    if after != before:
        name = next(iter(before.items() ^ after.items()))[0]
        wrong.append(f"input changed: {Path(name).suffix or 'a file'}")
    wrong += _output(case, ran, err, folder, again)
    return wrong


def _ending(case: Case, ran: Ran, out: str, err: str) -> list[str]:
    """Of the exit status and the line that tells why."""
    if ran.hung:
        return ["hang: more than 10 s"]
    wrong = []
    # Libraries have the word for ends of files; ours is for errors nobody thought of.
    for text in ("error: unexpected ", "out of memory", "(--debug shows where)"):
        if text in err:
            line = next(line for line in err.splitlines() if text in line)
            return [line[line.find(text) :]]
    if ran.status not in (0, 1, 2):
        return [f"exit status {ran.status}: {err.strip().splitlines()[-1:] or ''}"]
    errors = [line for line in err.splitlines() if line.startswith("relabel: error")]
    validated = case.args[:2] == ["datasets", "validate"]
    if ran.status == 0 and errors:
        wrong.append("exit status 0 with an error")
    if ran.status == 1 and len(errors) != 1 and not (validated and not errors):
        wrong.append(f"exit status 1 with {len(errors)} lines of error")
    if (
        ran.status == 1
        and errors
        and not re.search(r"\w", errors[0].removeprefix("relabel: error"))
    ):
        wrong.append("an error that says nothing")
    if ran.status == 2 and "folder" not in case.kinds:
        wrong.append(f"exit status 2: {(err.strip().splitlines() or [''])[-1]}")
    if validated and ran.status in (0, 1) and not errors:
        said = json.loads(out)["ok"] if "--json" in case.args else "\nnot ok:" not in f"\n{out}"
        if said != (ran.status == 0):
            wrong.append("validate says one thing and its status another")
    return wrong


def _output(case: Case, ran: Ran, err: str, folder: Path, again: Again) -> list[str]:
    """Of what convert wrote: whole and readable, or nothing that a reader takes."""
    wrong = []
    files = [p for p in (folder / OUT).rglob("*") if p.is_symlink() or p.is_file()]
    if any(".tmp" in p.name for p in files):
        wrong.append("a temporary file is left over")
    secret = (folder / OUTSIDE / "secret.jpg").read_bytes()
    linked = any("outside" in said for _, said in case.damage if "is a link" in said)
    if not linked and any(p.is_file() and p.read_bytes() == secret for p in files):
        wrong.append("a file from outside the dataset is in the output")
    if case.args[:2] != ["datasets", "convert"]:
        return wrong
    to = case.args[case.args.index("--to") + 1]
    out = case.args[case.args.index("--out") + 1]
    split = case.args[case.args.index("--split") + 1] if "--split" in case.args else "train"
    if ran.status == 0:
        said = _WRITTEN.search(err)
        if said is None:
            return [*wrong, "convert does not say what it wrote"]
        placed = case.args[case.args.index("--images") + 1] if "--images" in case.args else "auto"
        if to in ("voc", "yolo") and "not found and not linked" in err:
            return wrong  # labels without an image are told and left out there
        if to == "yolo" and placed == "none":
            return wrong  # its reader goes by the images
        return wrong + _read_back(again, to, out, split, int(said[1]), int(said[2]))
    if ran.status == 1 and files:
        found = _describe(again, to, out, split)
        if found.status == 0:
            wrong.append(f"half output: a reader takes what a failed convert to {to} left")
    return wrong


def _describe(again: Again, to: str, out: str, split: str) -> Ran:
    args = ["datasets", "describe", out, "--format", to, "--json"]
    return again(args if out.endswith(".json") or to == "fiftyone" else [*args, "--split", split])


def _read_back(again: Again, to: str, out: str, split: str, images: int, boxes: int) -> list[str]:
    found = _describe(again, to, out, split)
    err = found.err.decode("utf-8", "replace").strip()
    if "can be written but not read" in err:
        return []
    if found.status != 0:
        line = (err.splitlines() or [""])[-1]
        return [f"what convert to {to} wrote cannot be read: {line}"]
    counts = json.loads(found.out)
    there = counts["boxes"] + counts["ignored"]
    if counts["images"] != images:
        return [f"convert to {to} says {images} images, its output has {counts['images']}"]
    if there != boxes:
        return [f"convert to {to} says {boxes} boxes, its output has {there}"]
    return []
