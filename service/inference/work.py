"""Images in the line before an engine, and the choice of those that a batch can finish in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.errors import ServiceError
from service.inference.image_queue import BatchRow


@dataclass(eq=False, slots=True)
class Work:
    """An image in the queue or in a batch.

    Attributes:
        image: (h, w, 3) uint8.
        deadline: End of the wait for its row, on the event loop's clock.
        window_end: Time from which it waits for no other image, on the same clock.
        queued_at: Time of ``enqueue``, by ``time.perf_counter``.
        on_start: Called when the engine starts on it.
        output: Gets its output.
        row: Set to its row, or to the ``ServiceError`` that it failed with.
        caller: Request that it belongs to, for the traces.
        is_abandoned: True once nobody waits for its row.
    """

    image: NDArray[np.uint8]
    output: Rows
    deadline: float
    window_end: float
    queued_at: float
    on_start: Callable[[], None]
    row: asyncio.Future[BatchRow]
    caller: Any
    is_abandoned: bool = False

    @property
    def is_wanted(self) -> bool:
        """True while somebody waits for its row."""
        return not (self.row.done() or self.is_abandoned)

    def fail(self, error: ServiceError) -> None:
        """Fail, unless there is a row already."""
        if not self.row.done():
            self.row.set_exception(error)


def in_time(works: Sequence[Work], start: float, seconds: Callable[[int], float]) -> list[Work]:
    """Keep as many as one batch finishes in time, in the order given; the earliest deadlines are left out first.

    Args:
        works: Candidates of the batch.
        start: Its start, on the clock of the deadlines.
        seconds: Time of a batch by its size.
    """
    by_deadline = sorted(works, key=lambda work: work.deadline)
    late = 0
    while late < len(works) and by_deadline[late].deadline < start + seconds(len(works) - late):
        late += 1
    left_out = set(by_deadline[:late])
    return [work for work in works if work not in left_out]
