"""Receivers of what a batcher does: counts for the metrics, and traces."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

DropReason = Literal["cancelled", "expired", "drained", "engine-down"]


class BatchObserver(Protocol):
    """Counts what the batcher does; the metrics."""

    def batch_finished(self, size: int, seconds: float) -> None:
        """The engine has run ``size`` images, which took it ``seconds``."""

    def batch_failed(self) -> None:
        """The engine has failed on a batch."""

    def image_started(self, queue_s: float) -> None:
        """The engine has begun with an image that had waited for ``queue_s``."""

    def work_dropped(self, reason: DropReason) -> None:
        """An image has left the queue without having been run."""


class BatchTrace(Protocol):
    """Traces batches and the requests whose images are in them."""

    def caller(self) -> Any:
        """Identify the request that calls, for ``batch``."""

    def batch(self, callers: Sequence[Any]) -> AbstractContextManager[None]:
        """Wrap a run of the engine on the images of these requests."""
        ...
