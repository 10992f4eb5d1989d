"""Counts in shared memory: one page per process, which alone writes it; every process reads all pages.

The supervisor creates the pages before it forks. A process that takes the place of one that died opens the same page
and continues its counts. The memory is an anonymous mapping: it ends with the last process, and nothing is on disk.

A page has a header (number of entries, epoch), an array of float64 values, and a log of entries. An entry names a
series or a histogram and owns the next values of the array. It is written before the header counts it, and has a
checksum, so a process that dies at any moment leaves a page that can be read.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import struct
import threading
import zlib
from collections.abc import Mapping

logger = logging.getLogger(__name__)

# Room for about 70 models.
_PAGE_BYTES = 1 << 20
_HEADER_BYTES = 16
_ENTRIES, _EPOCH = 0, 1
# Length of the key, number of values, CRC-32 of the key.
_ENTRY = struct.Struct("<HHI")
_MAX_KEY_BYTES = (1 << 16) - 1

# Values of the labels of one series.
Labels = tuple[str, ...]
# Values of each label set.
Slots = Mapping[Labels, "memoryview[float]"]


class MetricPage:
    """One page, as the process that writes it and as the others see it."""

    def __init__(self, memory: memoryview) -> None:
        """``memory`` is zero, or a page that a process has written."""
        value_bytes = len(memory) // 4
        self._header = memory[:_HEADER_BYTES].cast("Q")
        self._values = memory[_HEADER_BYTES : _HEADER_BYTES + value_bytes].cast("d")
        self._log = memory[_HEADER_BYTES + value_bytes :]
        self._full = False
        self._epoch = self._read = self._log_used = self._values_used = 0
        self._slots: dict[str, dict[Labels, memoryview[float]]] = {}

    def slots(self, metric: str) -> Slots:
        """The values of each label set of a metric."""
        self._refresh()
        return self._slots.get(metric, {})

    def claim(self, metric: str, labels: Labels, count: int) -> memoryview[float]:
        """The ``count`` values of a label set, zero if it is new. Only the process that owns the page may ask.

        A page that is full gives values that no other process sees.
        """
        self._refresh()
        known = self._slots.get(metric, {}).get(labels)
        if known is not None and len(known) == count:
            return known
        return self._append(metric, labels, count)

    def repair(self) -> int:
        """Drop unreadable entries, for the next owner of the page; gives their number."""
        self._refresh()
        dropped = max(0, self._header[_ENTRIES] - self._read)
        self._header[_ENTRIES] = self._read
        # The others read the page again.
        self._epoch = self._header[_EPOCH] = (self._header[_EPOCH] + 1) % (1 << 63)
        for index, value in enumerate(self._values[: self._values_used]):
            self._values[index] = sane(value)
        return dropped

    def _append(self, metric: str, labels: Labels, count: int) -> memoryview[float]:
        key = json.dumps([metric, *labels]).encode()
        log_end, values_end = self._log_used + _ENTRY.size + len(key), self._values_used + count
        if len(key) > _MAX_KEY_BYTES or log_end > len(self._log) or values_end > len(self._values):
            return self._append_aside(metric, labels, count)
        self._values[self._values_used : values_end] = memoryview(bytes(8 * count)).cast("d")
        self._log[self._log_used : log_end] = _ENTRY.pack(len(key), count, zlib.crc32(key)) + key
        self._header[_ENTRIES] = self._read + 1
        self._refresh()
        return self._slots[metric][labels]

    def _append_aside(self, metric: str, labels: Labels, count: int) -> memoryview[float]:
        if not self._full:
            self._full = True
            logger.error("the shared page of metrics is full: from %s on, new series count this process alone", metric)
        values = memoryview(bytearray(8 * count)).cast("d")
        self._slots.setdefault(metric, {})[labels] = values
        return values

    def _refresh(self) -> None:
        """Read the entries added since the last time."""
        if self._header[_EPOCH] != self._epoch:
            self._forget()
        while self._read < self._header[_ENTRIES] and self._read_entry():
            self._read += 1

    def _forget(self) -> None:
        self._epoch = self._header[_EPOCH]
        self._read = self._log_used = self._values_used = 0
        self._slots = {}

    def _read_entry(self) -> bool:
        """Read the next entry; gives False if it is broken."""
        start = self._log_used + _ENTRY.size
        if start > len(self._log):
            return False
        length, count, checksum = _ENTRY.unpack_from(self._log, self._log_used)
        key = bytes(self._log[start : start + length])
        values = self._values[self._values_used : self._values_used + count]
        if not key or len(values) != count or zlib.crc32(key) != checksum:
            return False
        metric, *labels = json.loads(key)
        self._slots.setdefault(metric, {})[tuple(labels)] = values
        self._log_used, self._values_used = start + length, self._values_used + count
        return True


class MetricPages:
    """The pages of all processes, with the one of this process open.

    Attributes:
        lock: Guards this process's own page between threads.
    """

    def __init__(self, memory: memoryview, processes: int) -> None:
        """See ``create``."""
        size = len(memory) // processes
        self.lock = threading.Lock()
        self._pages = [MetricPage(memory[index * size : (index + 1) * size]) for index in range(processes)]
        self._own = self._pages[0]

    @classmethod
    def create(cls, processes: int, page_bytes: int = _PAGE_BYTES) -> MetricPages:
        """Pages for ``processes`` processes that will be forked; page 0 is open."""
        return cls(memoryview(mmap.mmap(-1, processes * page_bytes)), processes)

    def open(self, index: int) -> None:
        """Take the page of process ``index``, after the fork and before its metrics are made."""
        self.lock = threading.Lock()
        self._own = self._pages[index]
        dropped = self._own.repair()
        if dropped:
            logger.error("the metrics of process %d were broken: %d of their series start at 0", index, dropped)

    def claim(self, metric: str, labels: Labels, count: int) -> memoryview[float]:
        """The values of a label set in this process's page."""
        with self.lock:
            return self._own.claim(metric, labels, count)

    def slots(self, metric: str) -> dict[Labels, list[memoryview[float]]]:
        """The values of each label set of a metric, one view for each process that has it."""
        found: dict[Labels, list[memoryview[float]]] = {}
        with self.lock:
            for page in self._pages:
                for labels, values in page.slots(metric).items():
                    found.setdefault(labels, []).append(values)
        return found


def sane(value: float) -> float:
    """``value``, or 0 where no count can have it."""
    return value if 0 <= value < math.inf else 0.0
