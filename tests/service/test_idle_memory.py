"""Memory of requests goes back to the system when a process is idle, and now and then when it is not."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import weakref

import pytest

from service.idle_memory import collect_and_trim, trim_when_idle


class Work:
    """Requests of a process, and how often its memory was given back."""

    def __init__(self, busy_interval_s: float = 1e6) -> None:
        self._busy_interval_s = busy_interval_s
        self.in_flight = self.admitted = 0
        self.trims = 0
        self._looks = 0

    async def watch(self) -> None:
        await trim_when_idle(
            lambda: self.in_flight,
            self._look,
            self._trim,
            interval_s=0.001,
            busy_interval_s=self._busy_interval_s,
        )

    async def pass_looks(self) -> None:
        """Let a few looks pass."""
        end = self._looks + 5
        while self._looks < end:  # noqa: ASYNC110  a look tells nobody
            await asyncio.sleep(0.001)

    def _look(self) -> int:
        self._looks += 1
        return self.admitted

    def _trim(self) -> None:
        self.trims += 1


@pytest.mark.anyio
async def test_memory_is_given_back_once_after_work() -> None:
    work = Work()
    watch = asyncio.create_task(work.watch())
    await work.pass_looks()
    assert work.trims == 0
    work.admitted, work.in_flight = 5, 1
    await work.pass_looks()
    assert work.trims == 0
    work.in_flight = 0
    await work.pass_looks()
    assert work.trims == 1
    await work.pass_looks()
    assert work.trims == 1
    work.admitted += 1
    await work.pass_looks()
    assert work.trims == 2
    watch.cancel()


@pytest.mark.anyio
async def test_a_busy_process_gives_memory_back_too() -> None:
    work = Work(busy_interval_s=0.0)
    watch = asyncio.create_task(work.watch())
    work.in_flight = 1
    await work.pass_looks()
    assert work.trims == 0  # nothing has been admitted since the start
    for trims in (1, 2):
        work.admitted += 1
        await work.pass_looks()
        assert work.trims == trims
    watch.cancel()


@pytest.mark.anyio
async def test_memory_is_given_back_later_where_there_is_no_thread_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    watch = asyncio.create_task(work.watch())
    await work.pass_looks()
    with monkeypatch.context() as patch:

        async def no_thread(_: object) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(asyncio, "to_thread", no_thread)
        work.admitted += 1
        await work.pass_looks()
    await work.pass_looks()
    assert work.trims == 1
    watch.cancel()


def test_what_only_a_cycle_holds_is_given_back() -> None:
    work = Work()
    work.itself = work  # type: ignore[attr-defined]
    held = weakref.ref(work)
    del work
    collect_and_trim()
    assert held() is None


_PROGRAM = """
import ctypes
import threading
from pathlib import Path
from service.idle_memory import keep_freed_memory, trim

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

{arena}
last = []
before = pages()
thread = threading.Thread(target=burst)
thread.start()
thread.join()
held = pages()
trim()
print(before, held, pages())
"""
# Blocks of 64 KiB, freed but for the last, which holds the top of the heap.
_BELOW_THE_TOP = """
def burst():
    blocks = [bytes(65_000) for _ in range(2_000)]
    last.append(bytes(65_000))
"""
# A block of 28 MiB comes from the arena, and leaves its free pages at the top.
_AT_THE_TOP = """
keep_freed_memory()

def burst():
    block = ctypes.create_string_buffer(28 << 20)
    ctypes.memset(block, 1, 28 << 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc has malloc_trim")
@pytest.mark.parametrize("arena", [_BELOW_THE_TOP, _AT_THE_TOP], ids=["below the top", "at the top"])
def test_free_memory_of_a_thread_is_given_back(arena: str) -> None:
    program = _PROGRAM.format(arena=arena)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, held, after = map(int, re.findall(r"\d+", run.stdout))
    assert held - before > 2_000
    assert after - before < 500
