"""Freed memory goes back to the system when a process has become idle, and every ten seconds of a busy one.

glibc keeps freed memory in each arena. After a burst of large images that is most of the process, and a process that
is never idle would keep the most of all its bursts. ``malloc_trim`` gives the free pages of all arenas back, but those
at the end of an arena only for the main one. glibc makes an arena for each thread, and keeps up to 64 MiB at the end of
each once a block of 32 MiB has been freed. So a worker has the main arena alone. Its threads rarely wait for each
other, as their buffers are few and large.

Between two trims a worker keeps what it frees. Allocated by ``mmap``, or cut off the end of the arena, the memory of an
image would be returned at once, but then the kernel clears the pages of the next image again: decoding 480x360 takes a
third more CPU. glibc begins so, and keeps more with each larger block that has been freed; a worker begins where that
ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

# Seconds between two looks; a process that had no request at both is idle.
_INTERVAL_S = 2.0
# Seconds between two trims of a busy process. The pages that it needs again cost 50 ms for 40 MB.
_BUSY_INTERVAL_S = 10.0
# Of malloc.h, with the bytes up to which glibc would raise the thresholds by itself.
_M_ARENA_MAX, _NUM_ARENAS = -8, 1
_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES = -3, 32 << 20
_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES = -1, 64 << 20


def keep_freed_memory() -> None:
    """Let all threads allocate from the main arena, which keeps what is freed until a trim; for glibc alone."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _NUM_ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)


def trim() -> None:
    """Give all free pages of the heap back; 0.1 s for 200 MB. C libraries other than glibc have no such call."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def collect_and_trim() -> None:
    """Also free objects that only cycles of references hold: the traceback of a refusal may hold an image."""
    gc.collect()
    trim()


async def trim_when_idle(
    in_flight: Callable[[], int],
    admitted: Callable[[], int],
    trim: Callable[[], None] = collect_and_trim,
    interval_s: float = _INTERVAL_S,
    busy_interval_s: float = _BUSY_INTERVAL_S,
) -> None:
    """Trim in a thread when work has ended, and at intervals while it continues; runs until it is cancelled.

    Args:
        in_flight: Requests inside this process.
        admitted: Requests that it has admitted so far.
        trim: Gives the memory back.
        interval_s: Seconds between two looks.
        busy_interval_s: Seconds between two trims of a process that is not idle.
    """
    clock = asyncio.get_running_loop().time
    seen = trimmed = admitted()
    due = clock() + busy_interval_s
    while True:
        await asyncio.sleep(interval_s)
        before, seen = seen, admitted()
        is_idle = seen == before and not in_flight()
        if seen != trimmed and (is_idle or clock() >= due):
            with suppress(RuntimeError, MemoryError):  # there is no thread for it, and none at the next look perhaps
                await asyncio.to_thread(trim)
                trimmed = seen
            due = clock() + busy_interval_s
