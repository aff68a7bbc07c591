"""Tables of columns: rows taken, joined, grouped by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relabel.datasets.table import ImageTable, Table


@dataclass(frozen=True, eq=False)
class Inner(Table):
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Outer(ImageTable):
    name: str
    image: np.ndarray
    pair: np.ndarray
    word: Sequence[str]
    inner: Inner
    extra: Sequence[bytes | None] | None = None
    grade: np.ndarray | None = None

    SHARED: ClassVar[frozenset[str]] = frozenset({"name"})


def table(images: Sequence[int], name: str = "t") -> Outer:
    n = len(images)
    number = np.arange(n)
    words = [f"{name}{i}" for i in range(n)]
    image = np.array(images, np.int32)
    return Outer(name, image, np.stack([number, -number], 1), words, Inner(number * 10))


def test_rows_are_taken_from_every_column() -> None:
    whole = replace(table([0, 0, 1]), extra=[b"a", None, b"c"])
    for part in (
        whole.take(np.array([2, 0])),
        whole.take(np.array([True, False, True])).take(np.array([1, 0])),
    ):
        assert len(part) == 2 and part.name == "t"
        assert part.image.tolist() == [1, 0]
        assert part.pair.tolist() == [[2, -2], [0, 0]]
        assert part.word == ["t2", "t0"]
        assert part.inner.value.tolist() == [20, 0]
        assert part.extra == [b"c", b"a"] and part.grade is None


def test_parts_are_joined() -> None:
    one, other = table([0, 2], "a"), replace(table([1], "b"), extra=[b"x"])
    both = Outer.concatenate([one, other])
    assert both.name == "a" and both.image.tolist() == [0, 2, 1]
    assert both.extra == [None, None, b"x"]
    assert both.inner.value.tolist() == [0, 10, 0]
    assert both.sorted_by_image().word == ["a0", "b0", "a1"]
    graded = replace(one, grade=np.ones(2))
    assert Outer.concatenate([graded, table([])]).grade == pytest.approx(np.ones(2))
    with pytest.raises(ValueError, match="column grade is missing in a part"):
        Outer.concatenate([graded, other])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Outer.concatenate([])


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(-1, 5)))
def test_rows_of_images(images: list[int], wanted: list[int]) -> None:
    whole = table(images).sorted_by_image()
    offsets = whole.offsets_of(6)
    assert np.diff(offsets).tolist() == [images.count(i) for i in range(6)]
    found = whole.of_images(np.array(wanted, np.int64), offsets)
    rows = [(new, i) for new, i in enumerate(wanted) for _ in range(images.count(i))]
    assert found.image.tolist() == [new for new, _ in rows]
    assert [images[n] for n in found.pair[:, 0]] == [i for _, i in rows]
    # In each image, rows keep their order.
    for new in range(len(wanted)):
        assert (np.diff(found.pair[found.image == new, 0]) > 0).all()
