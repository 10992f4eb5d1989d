"""An engine that runs when the test lets it."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import GraphInfo
from tests.support.brightness_model import Infer
from tests.support.limits import HANG_S

# Brightness of images on which the fake engines fail.
POISON = 201


class FakeEngine:
    """Runs when its gate is open; fails on images of brightness ``POISON``.

    Attributes:
        logits: Computes the output of a batch; a test may put another function in its place.
        batch_sizes: Sizes of the batches that were run.
    """

    name = "fake"
    graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
    num_classes = 3
    max_batch_size = 8
    warm_up_sizes = (1,)

    def __init__(self, logits: Infer) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batch_sizes: list[int] = []
        self.logits = logits
        self.gate.set()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(HANG_S)
        self.batch_sizes.append(len(images))
        if (images == POISON).all((1, 2, 3)).any():
            raise RuntimeError("poisoned")
        return self.logits(images)

    def close(self) -> None:
        pass

    def shut(self) -> None:
        """Close the gate, and forget what has run."""
        self.gate.clear()
        self.entered.clear()
        self.batch_sizes.clear()

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, HANG_S)
