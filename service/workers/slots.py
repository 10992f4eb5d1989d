"""Slots in shared memory: images and outputs of one model that a worker and the engine process both see.

A region begins with a header of 64-bit numbers. Each number and each byte has one writer: the worker writes images and
what it expects, the engine process writes outputs and the state of the queue. A message says that a slot is
complete.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Rows, output_dtype
from service.model_directory.manifest import GraphInfo
from service.workers.channel import check_sealed, sealed_memory

_ALIGNMENT = 4096
# Numbers of the header, as int64 or float64.
_EXPECTED, _WAITING, _DEPTH, _BACKLOG, _SECONDS, _FREE_AT, _FIRST_S, _FULL_S = range(8)
_HEADER_NUMBERS = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of images and outputs in a region.

    Attributes:
        slots: Number of slots.
        input_size: (h, w) of the images.
        output_shape: (K, h', w') of logits, or (h', w') of labels.
        output_dtype: float32 of logits, uint8 of labels.
    """

    slots: int
    input_size: tuple[int, int]
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]

    @classmethod
    def of(cls, graph: GraphInfo, num_classes: int, slots: int) -> Layout:
        """The layout for a graph of a model with ``num_classes``."""
        return cls(slots, graph.input_size, graph.output_shape(1, num_classes)[1:], output_dtype(graph))

    @property
    def image_bytes(self) -> int:
        """Bytes from one image to the next."""
        height, width = self.input_size
        return _aligned(height * width * 3)

    @property
    def output_bytes(self) -> int:
        """Bytes from one output to the next."""
        return _aligned(int(np.prod(self.output_shape)) * self.output_dtype.itemsize)

    @property
    def images_at(self) -> int:
        """Byte of the first image: behind the header, and a byte for each slot that the engine has started."""
        return _aligned(_HEADER_NUMBERS * 8 + self.slots)

    @property
    def total_bytes(self) -> int:
        """Bytes of the region. Memory is allocated only for pages that are used."""
        return self.images_at + self.slots * (self.image_bytes + self.output_bytes)


class Region:
    """Mapped memory of the slots of one model and one worker."""

    def __init__(self, layout: Layout, descriptor: int, pin: Callable[[Rows], None] | None = None) -> None:
        """Map a region; ``descriptor`` may be closed afterwards.

        Args:
            layout: Of the slots.
            descriptor: From ``allocate``.
            pin: See ``service.engines.base.DirectEngine``.

        Raises:
            ValueError: It is not sealed, or has another size.
        """
        check_sealed(descriptor, layout.total_bytes)
        self.layout = layout
        self._pin = pin
        self._unpinned = set(range(layout.slots if pin else 0))
        self._memory = mmap.mmap(descriptor, layout.total_bytes)
        self._numbers = memoryview(self._memory)[: _HEADER_NUMBERS * 8].cast("q")
        self._floats = memoryview(self._memory)[: _HEADER_NUMBERS * 8].cast("d")
        self._started = memoryview(self._memory)[_HEADER_NUMBERS * 8 : _HEADER_NUMBERS * 8 + layout.slots]
        self._bytes = np.frombuffer(self._memory, np.uint8)

    @staticmethod
    def allocate(layout: Layout) -> int:
        """The descriptor of a new region; closing it is up to the caller."""
        return sealed_memory("slots", size=layout.total_bytes)

    def image(self, slot: int) -> NDArray[np.uint8]:
        """(h, w, 3) uint8, the image of a slot."""
        return self._images[slot]

    def output(self, slot: int) -> Rows:
        """The output of a slot, (K, h', w') float32 or (h', w') uint8."""
        return self._outputs[slot]

    def pin(self, slot: int) -> None:
        """Let the engine's device access a slot directly, from its first use on."""
        if self._pin is not None and slot in self._unpinned:
            self._unpinned.discard(slot)
            self._pin(self.image(slot))
            self._pin(self.output(slot))

    @property
    def expected(self) -> int:
        """Requests of the worker whose image has not reached the queue; written by the worker."""
        return self._numbers[_EXPECTED]

    @expected.setter
    def expected(self, value: int) -> None:
        self._numbers[_EXPECTED] = value

    @property
    def is_waiting(self) -> bool:
        """True while the queue waits for more images; written by the engine process."""
        return bool(self._numbers[_WAITING])

    @property
    def depth(self) -> int:
        """Images of all workers that wait; written by the engine process."""
        return self._numbers[_DEPTH]

    @property
    def backlog(self) -> int:
        """Images of all workers that wait or are being run; written by the engine process."""
        return self._numbers[_BACKLOG]

    @property
    def seconds_per_image(self) -> float:
        """Seconds of the engine for an image; written by the engine process."""
        return self._floats[_SECONDS]

    @property
    def free_at(self) -> float:
        """Time at which the engine takes the next batch, on the clock of the event loops; by the engine process."""
        return self._floats[_FREE_AT]

    @property
    def first_s(self) -> float:
        """Seconds of the engine for one image; written by the engine process."""
        return self._floats[_FIRST_S]

    @property
    def full_s(self) -> float:
        """Seconds of the engine for a full batch; written by the engine process."""
        return self._floats[_FULL_S]

    def note_queue(self, *, depth: int, backlog: int, is_waiting: bool) -> None:
        """Write the images in the queue."""
        self._numbers[_DEPTH] = depth
        self._numbers[_BACKLOG] = backlog
        self._numbers[_WAITING] = is_waiting

    def note_times(self, *, seconds_per_image: float, free_at: float, first_s: float, full_s: float) -> None:
        """Write the times of the engine."""
        self._floats[_SECONDS] = seconds_per_image
        self._floats[_FREE_AT] = free_at
        self._floats[_FIRST_S] = first_s
        self._floats[_FULL_S] = full_s

    def has_started(self, slot: int) -> bool:
        """True once the engine has started on the image of a slot."""
        return bool(self._started[slot])

    def mark_started(self, slot: int, *, started: bool = True) -> None:
        """Note whether the engine has started; reset by the worker, set by the engine process."""
        self._started[slot] = started

    @cached_property
    def _images(self) -> list[NDArray[np.uint8]]:
        height, width = self.layout.input_size
        return [
            self._array(self.layout.images_at + slot * self.layout.image_bytes, height * width * 3).reshape(
                height, width, 3
            )
            for slot in range(self.layout.slots)
        ]

    @cached_property
    def _outputs(self) -> list[Rows]:
        layout = self.layout
        start = layout.images_at + layout.slots * layout.image_bytes
        size = int(np.prod(layout.output_shape)) * layout.output_dtype.itemsize
        return [
            self._array(start + slot * layout.output_bytes, size).view(layout.output_dtype).reshape(layout.output_shape)
            for slot in range(layout.slots)
        ]

    def _array(self, start: int, size: int) -> NDArray[np.uint8]:
        return self._bytes[start : start + size]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def slots_for(max_requests: int, workers: int, max_batch_size: int) -> int:
    """Slots of one worker for one model.

    Args:
        max_requests: Most requests in all workers together.
        workers: Number of workers; connections are not spread evenly, so each gets twice its share.
        max_batch_size: Of the engine; an image in windows fills two batches more.
    """
    share = max_requests if workers == 1 else min(max_requests, -(-2 * max_requests // workers))
    return share + 2 * max_batch_size
