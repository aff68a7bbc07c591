"""Damage to files as things in folders: what is there, under which name, as what kind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from tests.fuzz.mutations.values import STRINGS

HIDDEN = ("._000.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".tmp-a.json", ".hidden.txt")


def damage_tree(rng: Random, root: Path, outside: Path) -> str:
    """Change one file or folder below ``root``; says what was done."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    folders = sorted(p for p in root.rglob("*") if p.is_dir() and not p.is_symlink())
    if not files:
        return "nothing left to damage"
    file = rng.choice(files)
    shown = file.relative_to(root).as_posix()
    change = rng.choice(list(_CHANGES))
    if change in ("folder removed", "loop of folders", "folder linked", "folder renamed"):
        folder = rng.choice([*folders, root]) if folders else root
        return _folder(rng, change, folder, root, outside)
    try:
        said = _CHANGES[change](rng, file, outside)
    except OSError as error:  # a name the file system does not take
        said = f"nothing: {error.strerror}"
    return f"{shown}: {change}{said and ' '}{said}"


def _to_folder(rng: Random, file: Path, outside: Path) -> str:
    file.unlink()
    file.mkdir()
    return ""


def _to_fifo(rng: Random, file: Path, outside: Path) -> str:
    file.unlink()
    os.mkfifo(file)
    return ""


def _to_link(rng: Random, file: Path, outside: Path) -> str:
    file.unlink()
    target = rng.choice(["nowhere", file.name, "/dev/zero", "/dev/null", ".", str(outside)])
    file.symlink_to(target)
    return "to itself" if target == file.name else "outside" if target == str(outside) else target


def _to_inside_link(rng: Random, file: Path, outside: Path) -> str:
    """A healthy file behind a link, as dataset tools leave them."""
    away = file.with_name(f"linked-{file.name}")
    shutil.move(file, away)
    file.symlink_to(away.name)
    return ""


def _empty(rng: Random, file: Path, outside: Path) -> str:
    file.write_bytes(b"")
    return ""


def _remove(rng: Random, file: Path, outside: Path) -> str:
    file.unlink()
    return ""


def _rename(rng: Random, file: Path, outside: Path) -> str:
    text = rng.choice(STRINGS).replace("/", "_").replace("\0", "_")
    new = os.fsencode(text.encode("utf-8", "replace").decode() or "x") + os.fsencode(file.suffix)
    new = rng.choice([new, b"caf\xe9" + os.fsencode(file.suffix)])
    os.rename(os.fsencode(file), os.path.join(os.fsencode(file.parent), new))  # noqa: PTH104, PTH118
    return repr(new[:30])


def _case(rng: Random, file: Path, outside: Path) -> str:
    new = rng.choice([file.name.upper(), file.stem + file.suffix.upper(), file.name + " "])
    file.rename(file.with_name(new))
    return ""


def _hidden(rng: Random, file: Path, outside: Path) -> str:
    name = rng.choice([*HIDDEN, f"._{file.name}", f".{file.name}", f".tmp-{file.name}"])
    content = rng.choice([b"\0\5\x16\7\0\2\0\0Mac OS X", file.read_bytes()])
    file.with_name(name).write_bytes(content)
    return name


def _copy(rng: Random, file: Path, outside: Path) -> str:
    name = rng.choice([f"{file.stem} copy{file.suffix}", f"{file.stem}(1){file.suffix}"])
    shutil.copy(file, file.with_name(name))
    return ""


def _other_suffix(rng: Random, file: Path, outside: Path) -> str:
    suffix = rng.choice([".jpg", ".png", ".txt", ".json", ".xml", ".gz", "", ".yaml", ".JPG"])
    file.rename(file.with_suffix(suffix))
    return suffix


def _move_down(rng: Random, file: Path, outside: Path) -> str:
    folder = file.parent / rng.choice(["sub", "x!y", "[b]", ".hidden", "__MACOSX"])
    folder.mkdir(exist_ok=True)
    file.rename(folder / file.name)
    return folder.name


def _unreadable(rng: Random, file: Path, outside: Path) -> str:
    file.chmod(0)
    return ""


_CHANGES = {
    "is a folder": _to_folder,
    "is a FIFO": _to_fifo,
    "is a link": _to_link,
    "is a link inside": _to_inside_link,
    "is empty": _empty,
    "removed": _remove,
    "renamed": _rename,
    "in another case": _case,
    "has a hidden file beside": _hidden,
    "has a copy beside": _copy,
    "has another suffix": _other_suffix,
    "moved into a folder": _move_down,
    "cannot be read": _unreadable,
    "folder removed": None,
    "loop of folders": None,
    "folder linked": None,
    "folder renamed": None,
}


def _folder(rng: Random, change: str, folder: Path, root: Path, outside: Path) -> str:
    shown = folder.relative_to(root).as_posix()
    if change == "folder removed" and folder != root:
        shutil.rmtree(folder)
    elif change == "loop of folders":
        (folder / "loop").symlink_to(rng.choice([".", "..", str(folder)]), True)
    elif change == "folder linked" and folder != root:
        away = folder.with_name(f"linked-{folder.name}")
        folder.rename(away)
        folder.symlink_to(away.name, True)
    elif change == "folder renamed" and folder != root:
        name = rng.choice([folder.name.upper(), "x!y", "[b]", "a b", "valid", "é"])
        folder.rename(folder.with_name(name))
    else:
        (folder / "loop").symlink_to("loop")
        change = "link to itself beside"
    return f"{shown}: {change}"
