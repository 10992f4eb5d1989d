"""The story of one request: admitted, decoded, batched, labelled, encoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.answers.cache import AnswerCache, answer_tag
from service.answers.encode import EncodedAnswer, encode_answer
from service.answers.options import AnswerOptions
from service.answers.schemas import AnswerSize, InputMode, Processing
from service.engines.base import Rows
from service.errors import EngineFailure
from service.imaging.codec import decode, read_size
from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import Segmentation, confidence_map, labels_of
from service.imaging.tiling import TilePlan, plan_tiles
from service.inference.admission import Admission, Ticket, TimeLimit
from service.inference.batcher import Batcher
from service.inference.stopwatch import Stopwatch
from service.inference.tiled_inference import TiledInference
from service.model_directory.manifest import LOGITS_STRIDE, GraphInfo, Manifest
from service.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """An image ready for the engine.

    Attributes:
        image: (h, w, 3) uint8: the size of the model's input, or with a ``plan`` that of the original.
        size: (H, W) of the upright original.
        plan: Where its windows lie; None if the model sees it at once.
    """

    image: NDArray[np.uint8]
    size: tuple[int, int]
    plan: TilePlan | None = None


@dataclass(frozen=True, slots=True)
class _Prediction:
    """Output of the model for an image.

    Attributes:
        processing: How the image went through the model.
        segment: Makes the output a segmentation, which takes CPU time.
    """

    processing: Processing
    segment: Callable[[], Segmentation]


class Pipeline:
    """Takes image files to answers; decoding and encoding run in ``codec``, the engine in the batcher's thread.

    Attributes:
        manifest: The model.
        graph: The one of its graphs that serves.
        engine_name: The runtime that it runs on.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        manifest: Manifest,
        graph: GraphInfo,
        engine_name: str,
        admission: Admission,
        batcher: Batcher,
        codec: Executor,
        cache: AnswerCache,
        tile_turn: asyncio.Semaphore,
    ) -> None:
        """``graph`` is that of the engine: it tells the input's size and the form of the output.

        Admission, codec threads, cache and the turn of images in windows may be shared with other models.
        """
        self.manifest = manifest
        self.graph = graph
        self.engine_name = engine_name
        self._settings = settings
        # What the answer depends on besides image and parameters. Runtimes differ in the last bits of the logits.
        self._identity = (manifest.name, manifest.version, repr(manifest.classes), graph.sha256, engine_name)
        self._cache = cache
        self._admission = admission
        self._batcher = batcher
        self._codec = codec
        self._tiled = TiledInference(batcher, codec, manifest.num_classes, tile_turn)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def seconds_per_image(self) -> float:
        """What the engine takes for an image, by its late batches."""
        return self._batcher.seconds_per_image

    @asynccontextmanager
    async def admit(self, limit: TimeLimit | None = None, *, accepted: bool = False) -> AsyncIterator[Ticket]:
        """Let a request in before its body is read; everything that it does belongs inside.

        Args:
            limit: The time of the request; default: ``request_timeout_s``.
            accepted: Whether it is a part of one that was let in before, and comes in during a drain too.

        Raises:
            Overloaded, Draining: No room, or the process stops.
            DeadlineExceeded: The body of the block took longer.
        """
        with self._in_use():
            async with self._admission.permit(limit, accepted=accepted, owner=self) as ticket:
                yield ticket

    @contextmanager
    def stay(self) -> Iterator[None]:
        """Let a drain, or the end of this version, wait for a request whose parts are admitted one by one."""
        with self._in_use(), self._admission.stay():
            yield

    async def until_unused(self) -> None:
        """Wait until no request is inside."""
        await self._unused.wait()

    async def segment(
        self, data: bytes, options: AnswerOptions, ticket: Ticket, *, known: Collection[str] = ()
    ) -> EncodedAnswer:
        """Segment an image file and encode the answer, unless it is there already.

        Args:
            data: The image file.
            options: What to answer.
            ticket: From ``admit``.
            known: Tags of answers that the client has.

        Raises:
            NotAnImage, UnsupportedImage, PayloadTooLarge: By the image.
            EngineFailure: The model failed on this image.
            Overloaded, Draining, EngineDown, DeadlineExceeded: See ``Admission.count_pixels`` and ``Batcher.submit``.
        """
        tag = await self._tag(data, options, ticket)
        if tag in known:
            return EncodedAnswer(None, tag)
        content = self._cache.get(tag)
        if content is None:
            content = await self._run(data, options, ticket)
            self._cache.put(tag, content)
        return EncodedAnswer(content, tag)

    async def infer_file(self, data: bytes, ticket: Ticket) -> Rows:
        """What the engine gives for an image file, stretched to the model's input.

        Raises:
            ServiceError: As in ``segment``.
        """
        await self._count_pixels(data, ticket)
        prepared = await self._in_codec(ticket.stopwatch, lambda: self._prepare(data, AnswerOptions(), ticket))
        return await self._infer(prepared.image, ticket)

    async def infer_pixels(self, image: NDArray[np.uint8], ticket: Ticket) -> Rows:
        """What the engine gives for RGB pixels (h, w, 3) that have the size of the model's input.

        Raises:
            EngineFailure, Overloaded, Draining, EngineDown, DeadlineExceeded: As in ``segment``.
        """
        height, width, _ = image.shape
        self._admission.count_pixels(ticket, height * width)
        return await self._infer(image, ticket)

    async def run_job(self, job: Callable[[], T], ticket: Ticket) -> T:
        """Run ``job`` in a codec thread, beside the event loop."""
        return await self._in_codec(ticket.stopwatch, job)

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0:
                self._unused.set()

    async def _tag(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> str:
        ticket.enter("decode")
        return await asyncio.to_thread(answer_tag, data, repr(options), *self._identity)

    async def _run(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> bytes:
        await self._count_pixels(data, ticket)
        async with self._tiled.turn(ticket) if options.mode is InputMode.TILE else nullcontext():
            prediction = await self._predict(data, options, ticket)
            return await self._in_codec(ticket.stopwatch, lambda: self._finish(prediction, options, data, ticket))

    async def _predict(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> _Prediction:
        """Run the model on the image."""
        prepared = await self._in_codec(ticket.stopwatch, lambda: self._prepare(data, options, ticket))
        processing = _processing(prepared, self.graph.input_size)
        if prepared.plan is None:
            output = await self._infer(prepared.image, ticket)
            size = self.graph.input_size if options.size is AnswerSize.MODEL else prepared.size
            return _Prediction(processing, lambda: _segmentation(output, size, options))
        paints = [label_map, confidence_map] if options.needs_confidence else [label_map]
        labels, *rest = await self._tiled.run(prepared.image, prepared.plan, paints, ticket)
        confidence = rest[0] if rest else None
        return _Prediction(processing, lambda: _restricted(Segmentation(labels, confidence), options))

    async def _infer(self, image: NDArray[np.uint8], ticket: Ticket) -> Rows:
        """What the engine gives for an image (h, w, 3) at its size."""
        ticket.enter("queue")
        row = await self._batcher.submit(image, ticket.deadline, on_start=lambda: ticket.mark("infer"))
        ticket.stopwatch.add("queue", row.queue_s, ago_s=row.infer_s)
        ticket.stopwatch.add("infer", row.infer_s)
        ticket.enter("post")
        return row.output

    async def _count_pixels(self, data: bytes, ticket: Ticket) -> None:
        """Take room for the pixels that the header announces."""
        ticket.enter("decode")
        # Not in a codec thread: a refusal should not stand in line behind images that are decoded.
        width, height = await asyncio.to_thread(read_size, data, max_image_pixels=self._settings.max_image_pixels)
        self._admission.count_pixels(ticket, width * height)

    def _prepare(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> _Prepared:
        with ticket.measure("decode"):
            pixels = self._decode(data, options)
            height, width, _ = pixels.shape
            size, plan = (height, width), None
            if options.mode is InputMode.TILE:
                plan = plan_tiles(size, self.graph.input_size, LOGITS_STRIDE)
            image = resize_to_input(pixels, self.graph.input_size) if plan is None else pixels
            return _Prepared(image, size, plan)

    def _finish(self, prediction: _Prediction, options: AnswerOptions, data: bytes, ticket: Ticket) -> bytes:
        with ticket.measure("post"):
            segmentation = prediction.segment()
            height, width = segmentation.labels.shape
        # The pixels of an overlay are decoded again: held, they could fill the memory while requests wait.
        with ticket.measure("encode"):
            return encode_answer(
                options,
                segmentation,
                self.manifest,
                processing=prediction.processing,
                pixels=lambda: resize_to_input(self._decode(data, options), (height, width)),
                seconds=ticket.stopwatch.seconds,
            )

    def _decode(self, data: bytes, options: AnswerOptions) -> NDArray[np.uint8]:
        return decode(
            data,
            max_image_bytes=self._settings.max_image_bytes,
            max_image_pixels=self._settings.max_image_pixels,
            background=options.background,
        ).pixels

    async def _in_codec(self, stopwatch: Stopwatch, job: Callable[[], T]) -> T:
        """Run ``job`` in a codec thread; to cancel takes it out of the line."""
        submitted = time.perf_counter()

        def run() -> T:
            stopwatch.add("wait", time.perf_counter() - submitted)
            return job()

        return await asyncio.get_running_loop().run_in_executor(self._codec, run)


def _segmentation(output: Rows, size: tuple[int, int], options: AnswerOptions) -> Segmentation:
    """Make an engine's output for one image what the answer needs of it."""
    try:
        labels = labels_of(output, size)
    except ValueError as error:
        raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error
    has_scores = output.dtype != np.uint8
    confidence = (
        confidence_map(cast(NDArray[np.float32], output), size) if options.needs_confidence and has_scores else None
    )
    return _restricted(Segmentation(labels, confidence), options)


def _restricted(segmentation: Segmentation, options: AnswerOptions) -> Segmentation:
    return segmentation if options.classes is None else segmentation.restrict(options.classes)


def _processing(prepared: _Prepared, input_size: tuple[int, int]) -> Processing:
    """What the model sees of an image."""
    if prepared.plan is not None:
        return Processing(mode=InputMode.TILE, windows=prepared.plan.num_windows, scale_x=1.0, scale_y=1.0)
    (rows, columns), (height, width) = input_size, prepared.size
    return Processing(mode=InputMode.RESIZE, windows=1, scale_x=columns / width, scale_y=rows / height)
