"""Pipeline of a request: admitted, decoded, batched, labelled, encoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
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
        tile_lock: asyncio.Lock,
    ) -> None:
        """``graph`` is the engine's: it has the size of the input and the form of the output.

        Models share admission, codec threads, cache, and the lock of the image that goes through in windows.
        """
        self.manifest = manifest
        self.graph = graph
        self.engine_name = engine_name
        self._settings = settings
        # An answer depends on these besides image and parameters. Runtimes differ in the last bits of the logits.
        self._identity = (manifest.name, manifest.version, repr(manifest.classes), graph.sha256, engine_name)
        self._cache = cache
        self._admission = admission
        self._batcher = batcher
        self._codec = codec
        self._tiled = TiledInference(batcher, codec, manifest.num_classes, tile_lock)

    @property
    def seconds_per_image(self) -> float:
        """Seconds of the engine for an image, by its latest batches."""
        return self._batcher.seconds_per_image

    @asynccontextmanager
    async def admit(self, limit: TimeLimit | None = None, *, accepted: bool = False) -> AsyncIterator[Ticket]:
        """Admit a request before its body is read; all of its work belongs inside the block.

        Args:
            limit: The time of the request; default: ``request_timeout_s``.
            accepted: True for a part of a request that was admitted before; a drain admits it too.

        Raises:
            Overloaded, Draining: No room, or the process stops.
            DeadlineExceeded: The block took longer than the limit.
        """
        async with self._admission.permit(limit, accepted=accepted, owner=self._batcher) as ticket:
            yield ticket

    def hold_open(self) -> AbstractContextManager[None]:
        """Make a drain, and the end of this version, wait for a request whose parts are admitted one by one."""
        return self._admission.hold_open(self._batcher)

    async def until_unused(self) -> None:
        """Wait until no request to this model is inside."""
        await self._admission.until_unused(self._batcher)

    async def segment(
        self, data: bytes, options: AnswerOptions, ticket: Ticket, *, known: Collection[str] = ()
    ) -> EncodedAnswer:
        """Segment an image file and encode the answer, unless the client or the cache has it.

        Args:
            data: The image file.
            options: Options of the answer.
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
        """Run the engine on an image file, stretched to the model's input.

        Raises:
            ServiceError: As in ``segment``.
        """
        await self._count_pixels(data, ticket)
        prepared = await self.run_job(lambda: self._prepare(data, AnswerOptions(), ticket), ticket)
        return await self._infer(prepared.image, ticket)

    async def infer_pixels(self, image: NDArray[np.uint8], ticket: Ticket) -> Rows:
        """Run the engine on RGB pixels (h, w, 3) that have the size of the model's input.

        Raises:
            EngineFailure, Overloaded, Draining, EngineDown, DeadlineExceeded: As in ``segment``.
        """
        height, width, _ = image.shape
        self._admission.count_pixels(ticket, height * width)
        return await self._infer(image, ticket)

    async def run_job(self, job: Callable[[], T], ticket: Ticket) -> T:
        """Run ``job`` in a codec thread and record the wait for the thread; cancellation takes it out of the line."""
        submitted = time.perf_counter()

        def run() -> T:
            ticket.stopwatch.record("wait", submitted, time.perf_counter())
            return job()

        return await asyncio.get_running_loop().run_in_executor(self._codec, run)

    async def _tag(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> str:
        ticket.enter("decode")
        return await asyncio.to_thread(answer_tag, data, repr(options), *self._identity)

    async def _run(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> bytes:
        await self._count_pixels(data, ticket)
        async with self._tiled.reserve(ticket) if options.mode is InputMode.TILE else nullcontext():
            prediction = await self._predict(data, options, ticket)
            return await self.run_job(lambda: self._finish(prediction, options, data, ticket), ticket)

    async def _predict(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> _Prediction:
        """Run the model on the image."""
        prepared = await self.run_job(lambda: self._prepare(data, options, ticket), ticket)
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
        """Run the engine on an image (h, w, 3) of its input size."""
        ticket.enter("queue")
        row = await self._batcher.submit(image, ticket.deadline, on_start=lambda: ticket.enter("infer", check=False))
        ticket.stopwatch.record("queue", row.queued, row.started)
        ticket.stopwatch.record("infer", row.started, row.ended)
        ticket.enter("post")
        return row.output

    async def _count_pixels(self, data: bytes, ticket: Ticket) -> None:
        """Count the pixels that the header announces."""
        ticket.enter("decode")
        # Not in a codec thread: a refusal should not wait for other images to be decoded.
        width, height = await asyncio.to_thread(read_size, data, max_image_pixels=self._settings.max_image_pixels)
        self._admission.count_pixels(ticket, width * height)

    def _prepare(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> _Prepared:
        with ticket.stage("decode"):
            pixels = self._decode(data, options)
            height, width, _ = pixels.shape
            size, plan = (height, width), None
            if options.mode is InputMode.TILE:
                plan = plan_tiles(size, self.graph.input_size, LOGITS_STRIDE)
            image = resize_to_input(pixels, self.graph.input_size) if plan is None else pixels
            return _Prepared(image, size, plan)

    def _finish(self, prediction: _Prediction, options: AnswerOptions, data: bytes, ticket: Ticket) -> bytes:
        with ticket.stage("post"):
            segmentation = prediction.segment()
            height, width = segmentation.labels.shape
        # The pixels of an overlay are decoded again: held, they could fill the memory while requests wait.
        with ticket.stage("encode"):
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
    """Describe how an image goes through the model."""
    if prepared.plan is not None:
        return Processing(mode=InputMode.TILE, windows=prepared.plan.num_windows, scale_x=1.0, scale_y=1.0)
    (rows, columns), (height, width) = input_size, prepared.size
    return Processing(mode=InputMode.RESIZE, windows=1, scale_x=columns / width, scale_y=rows / height)
