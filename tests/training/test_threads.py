"""The same bits with one thread and with several."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from relabel.training.threads import one_thread_if_few


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_products_of_few_rows_do_not_depend_on_threads(two_threads: None) -> None:
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(91, 1024, generator=random)
    for rows in (*range(1, 40), 100):
        x = torch.randn(rows, 1024, generator=random)
        with one_thread_if_few(rows):
            assert torch.get_num_threads() == (1 if rows < 24 else 2)
            here = F.linear(x, weights)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        alone = F.linear(x, weights)
        torch.set_num_threads(2)
        assert torch.equal(here, alone), rows


def test_threads_come_back_after_an_error(two_threads: None) -> None:
    with pytest.raises(ZeroDivisionError), one_thread_if_few(3):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
