"""The counts of connections of all workers, in shared memory; see ``service.connections.counts``.

Each worker writes its own row: its connections, its unread bytes, whether it accepts, and its connections by client. A
client is counted at two places that hashes of its address choose; the smaller sum over all rows is its number of
connections, or a little more if others share both places (a count-min sketch). The row of a worker that was killed is
cleared by the next one of its number.
"""

from __future__ import annotations

import hashlib
import mmap

from service.workers.channel import sealed_memory
from service.workers.record_lock import RecordLock

_OPEN, _UNSENT, _IS_ACCEPTING = range(3)
_HEADER = 3
# Of each of the two hashes.
_PLACES = 4096
_COLUMNS = _HEADER + 2 * _PLACES


class SharedConnections:
    """One worker's row of the counts; ``of`` gives that of another worker, before or after a fork."""

    def __init__(self, descriptor: int, memory: memoryview, row: int) -> None:
        """Use ``create`` and ``of``."""
        self._descriptor = descriptor
        self._processes = RecordLock(descriptor)
        self._memory = memory
        self._row = row

    @classmethod
    def create(cls, rows: int) -> SharedConnections:
        """Counts of so many workers, with the row of the first; memory is allocated as it is used."""
        size = rows * _COLUMNS * 8
        descriptor = sealed_memory("connections", size=size)
        return cls(descriptor, memoryview(mmap.mmap(descriptor, size)).cast("q"), 0)

    def of(self, row: int) -> SharedConnections:
        """The counts with another worker's row."""
        return SharedConnections(self._descriptor, self._memory, row)

    def open(self, client: str) -> tuple[int, int]:
        """See ``ConnectionCounts``."""
        columns = _columns(client)
        with self._processes:
            for column in (_OPEN, *columns):
                self._memory[self._place(column)] += 1
            return self._total(_OPEN), min(map(self._total, columns))

    def close(self, client: str) -> None:
        """See ``ConnectionCounts``."""
        for column in (_OPEN, *_columns(client)):
            self._memory[self._place(column)] -= 1

    def unsent(self, here: int) -> int:
        """See ``ConnectionCounts``; those of other workers are as of their last change."""
        self._memory[self._place(_UNSENT)] = here
        return self._total(_UNSENT)

    def begin_accepting(self) -> None:
        """See ``ConnectionCounts``."""
        self._memory[self._place(_IS_ACCEPTING)] = 1

    def end_accepting(self) -> None:
        """See ``ConnectionCounts``."""
        self._memory[self._place(_IS_ACCEPTING)] = 0

    def others_have_fewer(self, more: int) -> bool:
        """See ``ConnectionCounts``."""
        here = self._memory[self._place(_OPEN)] + more
        rows = zip(self._memory[_OPEN::_COLUMNS], self._memory[_IS_ACCEPTING::_COLUMNS], strict=True)
        return any(is_accepting and there < here for there, is_accepting in rows)

    def clear(self) -> None:
        """Remove the counts of the last worker of this row, which is gone."""
        start = self._place(0)
        self._memory[start : start + _COLUMNS] = memoryview(bytes(8 * _COLUMNS)).cast("q")

    def _place(self, column: int) -> int:
        return self._row * _COLUMNS + column

    def _total(self, column: int) -> int:
        return sum(self._memory[column::_COLUMNS])


def _columns(client: str) -> tuple[int, int]:
    """The two columns of a client."""
    digest = hashlib.blake2b(client.encode(), digest_size=4).digest()
    first, second = (int.from_bytes(part, "little") % _PLACES for part in (digest[:2], digest[2:]))
    return _HEADER + first, _HEADER + _PLACES + second
