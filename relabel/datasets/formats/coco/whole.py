"""Whole numbers as files write them: 7, 7.0 and "7" are one."""

from __future__ import annotations

import re
from typing import Any

_WHOLE = re.compile(r"\s*[+-]?\d{1,30}(\.0{1,30})?\s*", re.ASCII)


def whole_number(value: Any) -> Any:
    """The int that a float or a text stands for; anything else comes back unchanged.

    Tables that pandas wrote hold 7.0 once a cell of the column is empty, and CSV files hold text.

    >>> [whole_number(v) for v in (7.0, "7", "007", "7.0", 7.5, "a", True)]
    [7, 7, 7, 7, 7.5, 'a', True]
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    return value
