"""One of the batches that a TensorRT engine has at once: its memory on the GPU, its events, contexts and graphs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from service.engines.base import Images, Rows
from service.engines.tensorrt import cuda


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of an engine: copies to the GPU, networks and copies back of consecutive batches run side by side."""

    copies_in: Any
    networks: Any
    copies_out: Any

    @classmethod
    def create(cls, owner: ExitStack) -> Streams:
        """Three new streams."""
        return cls(*(cuda.new_stream(owner) for _ in range(3)))


class Lane:
    """Takes one batch at a time.

    Attributes:
        images: Address of the images on the GPU.
        rows: Address of the outputs on the GPU.
        contexts: Execution context of each batch size.
        graphs: CUDA graph of the network for each batch size that has one.
    """

    def __init__(self, owner: ExitStack, *, image_bytes: int, row_bytes: int, batch: int) -> None:
        """Allocate.

        Args:
            owner: Frees it.
            image_bytes: Of one image.
            row_bytes: Of one output.
            batch: Largest batch.
        """
        self.images = cuda.device_memory(owner, batch * image_bytes)
        self.rows = cuda.device_memory(owner, batch * row_bytes)
        self.contexts: dict[int, Any] = {}
        self.graphs: dict[int, Any] = {}
        self._copied = cuda.new_event(owner)
        self._computed = cuda.new_event(owner)
        self._done = cuda.new_event(owner)

    def copy_in(self, images: Images, streams: Streams) -> None:
        """Put the copies of a batch's images on their stream, and let the network wait for them."""
        for index, image in enumerate(images):
            cuda.copy_to_device(self.images + index * image.nbytes, image, streams.copies_in)
        cuda.record(self._copied, streams.copies_in)
        cuda.follow(streams.networks, self._copied)

    def copy_out(self, outputs: Sequence[Rows], streams: Streams) -> None:
        """Put the copies of a batch's outputs on their stream, behind the network."""
        cuda.record(self._computed, streams.networks)
        cuda.follow(streams.copies_out, self._computed)
        for index, output in enumerate(outputs):
            cuda.copy_to_host(output, self.rows + index * output.nbytes, streams.copies_out)
        cuda.record(self._done, streams.copies_out)

    def wait(self) -> None:
        """Sleep until the outputs are ready."""
        cuda.wait(self._done)

    def wait_for(self, stream: Any) -> None:
        """Sleep until all work on a stream is done."""
        cuda.record(self._done, stream)
        cuda.wait(self._done)
