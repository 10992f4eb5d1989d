"""The counts of all workers in shared memory; see ``service.inference.ledger``.

Each process has its own row, so that the counts of a killed worker can be taken out again.
"""

from __future__ import annotations

import mmap
import threading
from typing import get_args

from service.inference.ledger import Count
from service.workers.channel import sealed_memory
from service.workers.record_lock import RecordLock

_COLUMNS: dict[Count, int] = {count: place for place, count in enumerate(get_args(Count))}


class SharedLedger:
    """One process's row of the counts; ``of`` gives that of another process, before or after a fork."""

    def __init__(self, descriptor: int, memory: memoryview, rows: int, row: int) -> None:
        """Use ``create`` and ``of``."""
        self._descriptor = descriptor
        self._processes = RecordLock(descriptor)
        self._memory = memory
        self._rows = rows
        self._row = row
        self._threads = threading.Lock()

    @classmethod
    def create(cls, rows: int) -> SharedLedger:
        """A ledger for so many processes, with the row of the first."""
        size = rows * len(_COLUMNS) * 8
        descriptor = sealed_memory("ledger", size=size)
        return cls(descriptor, memoryview(mmap.mmap(descriptor, size)).cast("q"), rows, 0)

    def of(self, row: int) -> SharedLedger:
        """The ledger with another process's row."""
        return SharedLedger(self._descriptor, self._memory, self._rows, row)

    def total(self, count: Count) -> int:
        """See ``Ledger``."""
        return sum(self._memory[_COLUMNS[count] :: len(_COLUMNS)])

    def add(self, count: Count, number: int) -> None:
        """See ``Ledger``."""
        with self._threads:  # no other process writes this row, and none minds an old number
            self._memory[self._place(count)] += number

    def add_within(self, count: Count, number: int, limit: int, *, alone: bool = False) -> bool:
        """See ``Ledger``."""
        with self._threads, self._processes:
            total = self.total(count)
            if total + number > limit and not (alone and total == 0):
                return False
            self._memory[self._place(count)] += number
            return True

    def clear(self) -> None:
        """Take out what the process of this row had; it is gone."""
        with self._threads, self._processes:
            for count in _COLUMNS:
                self._memory[self._place(count)] = 0

    def _place(self, count: Count) -> int:
        return self._row * len(_COLUMNS) + _COLUMNS[count]
