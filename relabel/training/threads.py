"""Results that do not depend on how many threads computed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Rows of a matrix per thread from which MKL adds up each row alike with any number of threads:
# six were enough in all shapes tried (1 to 1,000 rows, 6 to 12,544 columns), twice that is kept.
_ROWS_PER_THREAD = 12


@contextmanager
def one_thread_if_few(rows: int) -> Iterator[None]:
    """Compute on the CPU with one thread where a matrix has few rows.

    BLAS deals the rows out to threads, and adds up a thread's few rows in another order than many:
    the last bits of a small product depend on the number of threads. With that few rows a second
    thread gains nothing.

    Args:
        rows: of the smallest matrix that is multiplied.
    """
    threads = torch.get_num_threads()
    if threads == 1 or rows >= _ROWS_PER_THREAD * threads:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
