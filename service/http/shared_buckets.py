"""Rate limits over all workers: a table of buckets in shared memory.

The supervisor creates the table before it forks. The owner's digest chooses a row of the table; the row holds a few
buckets, and a new owner takes the one that was used longest ago. With fewer owners than a tenth of the buckets, an
active owner is unlikely to lose its bucket.

A record lock on the row keeps the others out. The kernel releases it when its holder dies.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable

from service.http.token_buckets import Bucket, default_burst
from service.workers.record_lock import RecordLock

# Digest of the name, time, tokens. A process that dies in between leaves the new time with the old tokens, or all old.
_BUCKET = struct.Struct("=16sdd")
_BUCKETS_PER_ROW = 8
_ROW_BYTES = _BUCKET.size * _BUCKETS_PER_ROW


class SharedTokenBuckets:
    """``service.http.token_buckets.Buckets`` of all processes that are forked after this was made."""

    def __init__(
        self,
        rate_per_s: float,
        burst: int | None = None,
        *,
        rows: int = 4096,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the table; it takes 256 bytes a row.

        Args:
            rate_per_s: Tokens that a bucket gets in a second.
            burst: What a bucket holds; what ``rate_per_s`` gives in one second, at least 1, if None.
            rows: Rows of the table, of eight buckets each.
            clock: Seconds that all processes count from the same moment.
        """
        self.rate_per_s = rate_per_s
        self.burst = default_burst(rate_per_s) if burst is None else burst
        self._rows = rows
        self._clock = clock
        self._file = os.memfd_create("rate-limits", os.MFD_CLOEXEC)
        os.ftruncate(self._file, rows * _ROW_BYTES)
        self._table = mmap.mmap(self._file, rows * _ROW_BYTES)
        # Record locks keep processes apart, not threads.
        self._threads = threading.Lock()

    def take(self, name: str) -> float:
        """See ``Buckets``."""
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        row = int.from_bytes(digest, "big") % self._rows * _ROW_BYTES
        with self._threads, RecordLock(self._file, _ROW_BYTES, row):
            return self._take(digest, row)

    def _take(self, digest: bytes, row: int) -> float:
        now = self._clock()
        place, bucket = self._find(digest, row, now)
        bucket, wait_s = bucket.take(now, self.rate_per_s, self.burst)
        self._table[place : place + _BUCKET.size] = _BUCKET.pack(digest, bucket.filled, bucket.tokens)
        return wait_s

    def _find(self, digest: bytes, row: int, now: float) -> tuple[int, Bucket]:
        """Place of the bucket of an owner, and the bucket; for a new owner the place that was used longest ago."""
        oldest, oldest_filled = row, float("inf")
        for place in range(row, row + _ROW_BYTES, _BUCKET.size):
            owner, filled, tokens = _BUCKET.unpack_from(self._table, place)
            if owner == digest:
                return place, Bucket(tokens, filled)
            if filled < oldest_filled:
                oldest, oldest_filled = place, filled
        return oldest, Bucket(self.burst, now)
