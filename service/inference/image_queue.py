"""The seam before an engine: an image goes into a slot, and its row of the engine's output comes back.

``Batcher`` is the implementation for an engine in this process, ``service.workers.remote_queue`` the one for an engine
in another. Code in front of the seam cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows
from service.inference.codec_threads import CodecJob


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One image's row of a batch.

    Attributes:
        output: Output of the engine: logits (K, h, w) float32, or labels (h, w) uint8. It is in the slot of the
            image, and is valid until the slot is given back.
        queued: Time of ``run``, by ``time.perf_counter``.
        started: Start of the batch.
        ended: End of the batch.
    """

    output: Rows
    queued: float
    started: float
    ended: float

    @property
    def queue_s(self) -> float:
        """Seconds from ``run`` to the start of the batch."""
        return self.started - self.queued

    @property
    def infer_s(self) -> float:
        """Seconds that the batch took."""
        return self.ended - self.started


class Slot(Protocol):
    """Room for one image and its output.

    Attributes:
        image: (h, w, 3) uint8, RGB, of the engine's input size; to be filled before ``run``.
    """

    @property
    def image(self) -> NDArray[np.uint8]: ...

    async def run(self, deadline: float, *, on_start: Callable[[], None] = lambda: None) -> BatchRow:
        """Queue the image and wait for its row. Cancellation takes the image out of the queue.

        Args:
            deadline: End of the wait, on the event loop's clock.
            on_start: Called when the engine starts on the image, at the latest before the row or an error is given.

        Raises:
            Overloaded: The queue is full.
            Draining: The queue no longer accepts work, or gave this work up.
            EngineDown: The engine does not work.
            DeadlineExceeded: The deadline has passed; work that was still queued never runs.
            EngineFailure: The engine failed on this image, alone.
        """
        ...

    def hold(self, job: CodecJob[Any]) -> None:
        """Keep the slot from its next image until a job ends that reads or writes it, even if its caller has left."""
        ...


class ImageQueue(Protocol):
    """The queue of images before the engine of one model.

    Attributes:
        max_batch_size: Most images of a batch.
        seconds_per_image: Of the engine's latest batches, smoothed; 0 before the first.
        down: Reason why the engine does not work, one sentence; empty while it works.
        depth: Images that wait.
        backlog: Images that wait or are being run.
    """

    @property
    def max_batch_size(self) -> int: ...
    @property
    def seconds_per_image(self) -> float: ...
    @property
    def down(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def backlog(self) -> int: ...

    def line_s(self, more: int) -> float:
        """Seconds until all waiting and running images, and ``more`` behind them, are done; 0 while nothing is known.

        From any thread.
        """
        ...

    def slot(self, deadline: float) -> AbstractAsyncContextManager[Slot]:
        """A slot until the end of the block; waits for one until ``deadline``, on the event loop's clock.

        Raises:
            DeadlineExceeded: None was free in time.
            EngineDown: The engine does not work.
        """
        ...

    def wake(self) -> None:
        """React to a request for this queue that has arrived or left."""
        ...
