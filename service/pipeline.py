"""The story of one request: admitted, decoded, batched, labelled, encoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_export.manifest import GraphInfo, Manifest
from service.admission import Admission
from service.answers import encode_answer
from service.batcher import Batcher
from service.engines.base import Rows
from service.errors import EngineFailure
from service.image_codec import decode
from service.postprocess import labels_of
from service.preprocess import resize_to_input
from service.schemas import AnswerFormat
from service.settings import Settings
from service.stopwatch import Stopwatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that was let in.

    Attributes:
        deadline: When its time is over, on the event loop's clock.
        stopwatch: Seconds that its stages took.
    """

    deadline: float
    stopwatch: Stopwatch


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image ready for the engine: ``image`` (h, w, 3) uint8, and the (H, W) of the upright original."""

    image: NDArray[np.uint8]
    size: tuple[int, int]


class Pipeline:
    """Takes image files to answers; decoding and encoding run in ``codec``, the engine in the batcher's thread."""

    def __init__(
        self,
        *,
        settings: Settings,
        manifest: Manifest,
        graph: GraphInfo,
        admission: Admission,
        batcher: Batcher,
        codec: Executor,
    ) -> None:
        """``graph`` is that of the engine: it tells the input's size and the form of the output."""
        self._settings = settings
        self._manifest = manifest
        self._graph = graph
        self._admission = admission
        self._batcher = batcher
        self._codec = codec

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Ticket]:
        """Let a request in before its body is read; everything that it does belongs inside.

        Raises:
            Overloaded, Draining: No room, or the process stops.
            DeadlineExceeded: The body of the block took longer than ``request_timeout_s``.
        """
        async with self._admission.permit() as deadline:
            yield Ticket(deadline, Stopwatch())

    async def segment(self, data: bytes, answer_format: AnswerFormat, ticket: Ticket) -> bytes:
        """Segment an image file and encode the answer.

        Raises:
            NotAnImage, UnsupportedImage, PayloadTooLarge: By the image.
            EngineFailure: The model failed on this image.
            Overloaded, Draining, DeadlineExceeded: See ``Batcher.submit``.
        """
        prepared = await self._in_codec(ticket.stopwatch, lambda: self._prepare(data, ticket.stopwatch))
        row = await self._batcher.submit(prepared.image, ticket.deadline)
        ticket.stopwatch.add("queue", row.queue_s)
        ticket.stopwatch.add("infer", row.infer_s)
        return await self._in_codec(
            ticket.stopwatch, lambda: self._finish(row.output, prepared.size, answer_format, data, ticket.stopwatch)
        )

    def _prepare(self, data: bytes, stopwatch: Stopwatch) -> _Prepared:
        with stopwatch.measure("decode"):
            pixels = self._decode(data)
            height, width, _ = pixels.shape
            return _Prepared(resize_to_input(pixels, self._graph.input_size), (height, width))

    def _finish(
        self,
        output: Rows,
        size: tuple[int, int],
        answer_format: AnswerFormat,
        data: bytes,
        stopwatch: Stopwatch,
    ) -> bytes:
        with stopwatch.measure("post"):
            labels = _labels(output, size)
        # The pixels of an overlay are decoded again: held, they could fill the memory while requests wait.
        with stopwatch.measure("encode"):
            return encode_answer(answer_format, labels, self._manifest, lambda: self._decode(data))

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        return decode(
            data,
            max_image_bytes=self._settings.max_image_bytes,
            max_image_pixels=self._settings.max_image_pixels,
        ).pixels

    async def _in_codec(self, stopwatch: Stopwatch, job: Callable[[], T]) -> T:
        """Run ``job`` in a codec thread; to cancel takes it out of the line."""
        submitted = time.perf_counter()

        def run() -> T:
            stopwatch.add("wait", time.perf_counter() - submitted)
            return job()

        return await asyncio.get_running_loop().run_in_executor(self._codec, run)


def _labels(output: Rows, size: tuple[int, int]) -> NDArray[np.uint8]:
    try:
        return labels_of(output, size)
    except ValueError as error:
        raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error
