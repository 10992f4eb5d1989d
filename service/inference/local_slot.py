"""Slots of an engine in this process: each image has its own memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.inference.codec_threads import CodecJob
from service.inference.image_queue import BatchRow

if TYPE_CHECKING:
    from service.inference.batcher import Batcher


class LocalSlot:
    """A slot in this process's own memory; see ``Slot``."""

    def __init__(self, batcher: Batcher) -> None:
        """``batcher`` runs its image."""
        self._batcher = batcher

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """See ``Slot``."""
        return np.empty((*self._batcher.input_size, 3), np.uint8)

    async def run(self, deadline: float, *, on_start: Callable[[], None] = lambda: None) -> BatchRow:
        """See ``Slot``."""
        return await self._batcher.submit(self.image, deadline, on_start=on_start)

    def hold(self, job: CodecJob[Any]) -> None:
        """Nothing to do: each image has its own memory."""
