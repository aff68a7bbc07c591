"""Process-wide allocator and thread settings that make CPU training several times faster."""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory() -> bool:
    """Stop glibc from giving every large activation back to the kernel after use.

    A feature map of tens of megabytes is otherwise mapped, zeroed page by page and unmapped in
    every layer of every step. Forward passes of a MobileNetV2 at 480 x 480 took 0.127 s an image
    with the default policy and 0.032 s with this one (2 cores, `benchmarks/README.md`).

    Returns:
        True where the allocator took the settings (glibc); False elsewhere, without harm.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4
        done = libc.mallopt(m_mmap_max, 0)
        done &= libc.mallopt(m_trim_threshold, 2**31 - 1)
        done &= libc.mallopt(m_top_pad, 64 * 2**20)
    except (OSError, AttributeError):
        return False
    return bool(done)
