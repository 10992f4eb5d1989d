"""The engine in its thread, one batch at a time, and whether it works.

An engine that keeps a batch for longer than its time, or that fails on everything, is down until a batch comes back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows

logger = logging.getLogger(__name__)

Infer = Callable[[NDArray[np.uint8]], Rows]
Images = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
# Seconds between the trials of an engine that fails on everything.
_TRIAL_INTERVAL_S = 5.0


class WatchedEngine:
    """Runs batches, and watches over what runs them.

    Attributes:
        free: Held by whoever uses the engine.
        down: Why the engine does not work, one sentence; empty while it does.
    """

    def __init__(self, infer: Infer, thread: Executor, timeout_s: float, on_fall: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            infer: Images (B, h, w, 3) uint8 to B rows; called in ``thread``, never twice at once.
            thread: Where the engine runs; its one thread keeps the event loop free.
            timeout_s: An engine that keeps a batch for longer is down.
            on_fall: Told why, when the engine goes down.
        """
        self.free = asyncio.Lock()
        self.down = ""
        self._infer = infer
        self._thread = thread
        self._timeout_s = timeout_s
        self._on_fall = on_fall

    async def run(self, images: Images) -> Rows:
        """Rows of a batch, for the holder of ``free``.

        Raises:
            Exception: Whatever the engine raises.
        """
        batch = asyncio.get_running_loop().run_in_executor(self._thread, _infer_images, self._infer, images)
        try:
            done, _ = await asyncio.wait((batch,), timeout=self._timeout_s if math.isfinite(self._timeout_s) else None)
            if not done:
                self.fall(f"the engine has kept a batch of {len(images)} for more than {self._timeout_s:g} s")
                await asyncio.wait((batch,))
                self._rise()
            return batch.result()
        finally:
            batch.cancel()

    async def try_out(self, image: NDArray[np.uint8]) -> None:
        """Find out whether the engine, and not the images, is at fault; if it is, wait for better days."""
        while True:
            try:
                async with self.free:
                    await self.run([image])
            except Exception as error:
                self.fall(f"the engine fails on every image, on a black one too: {text_of(error)}")
            else:
                self._rise()
                return
            await asyncio.sleep(_TRIAL_INTERVAL_S)

    def fall(self, reason: str) -> None:
        """The engine does not work: tell everybody who waits."""
        if not self.down:
            logger.error("%s; requests are refused", reason)
        self.down = reason
        self._on_fall(reason)

    def _rise(self) -> None:
        if self.down:
            logger.warning("the engine works again; it was down: %s", self.down)
        self.down = ""


def stacked(images: Images) -> NDArray[np.uint8]:
    """Images (h, w, 3), or a batch of them already, as (B, h, w, 3)."""
    return images if isinstance(images, np.ndarray) else np.stack(images)


def text_of(error: Exception) -> str:
    """What an exception says, or its name if it says nothing."""
    return str(error) or type(error).__name__


def _infer_images(infer: Infer, images: Images) -> Rows:
    """Run in the engine's thread."""
    rows = infer(stacked(images))
    if len(rows) != len(images):
        raise ValueError(f"the engine gave {len(rows)} outputs for {len(images)} images")
    return rows
