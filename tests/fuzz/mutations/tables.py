"""Text tables: label rows of YOLO, TSV and CSV files, lists of images."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutations.text import TEXT, any_of
from tests.fuzz.mutations.values import NUMBERS, STRINGS


def table_file(rng: Random, data: bytes) -> tuple[bytes, str]:
    """One edit of a row or a value, or of the text."""
    lines = data.decode("utf-8", "replace").splitlines()
    if rng.random() < 0.25 or not lines:
        return any_of(rng, TEXT, data)
    i = rng.randrange(len(lines))
    separator = "\t" if "\t" in lines[i] else "," if "," in lines[i] else " "
    values = lines[i].split(separator)
    j = rng.randrange(len(values))
    change = rng.choice(
        [
            "value",
            "value",
            "value",
            "number",
            "number",
            "column left out",
            "column more",
            "row left out",
            "row twice",
            "separator",
            "values exchanged",
            "comment",
            "many rows",
            "long row",
            "part of a value",
        ]
    )
    if change == "value":
        values[j] = rng.choice(STRINGS)
    elif change == "number":
        values[j] = rng.choice([*map(str, NUMBERS), "1_000", "0x10", "1,5", "+1", "1e3", " 1", "٣"])
    elif change == "column left out":
        values.pop(j)
    elif change == "column more":
        values[j:j] = [values[j]] * rng.choice([1, 1, 2, 5, 13])
    elif change == "values exchanged":
        k = rng.randrange(len(values))
        values[j], values[k] = values[k], values[j]
    elif change == "part of a value":
        at = rng.randrange(len(values[j]) + 1)
        values[j] = values[j][:at] + rng.choice(["", ",", ";", "-", ".", "e", ":", "9" * 20])
    elif change == "separator":
        separator = rng.choice([",", ";", "\t", "  ", "\u00a0", "|", ", ", "\x0b", "\x1c"])
    lines[i] = separator.join(values)
    if change == "row left out":
        lines.pop(i)
    elif change == "row twice":
        lines.insert(rng.randrange(len(lines) + 1), lines[i])
    elif change == "comment":
        lines[i] = "# " + lines[i]
    elif change == "many rows":
        lines[i:i] = [lines[i]] * 2000
    elif change == "long row":
        lines[i] = separator.join(values * 3000)
    written = "\n".join(lines) + rng.choice(["\n", "\n", ""])
    return written.encode("utf-8", "surrogatepass"), f"row {i + 1}: {change}"
