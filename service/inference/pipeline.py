"""Pipeline of a request: admitted, decoded, batched, labelled, encoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager
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
from service.imaging.codec import OpenedImage, open_image
from service.imaging.decode_process import Job
from service.imaging.label_map import Logits, label_map
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import Segmentation, confidence_map, labels_of
from service.imaging.tiling import TilePlan, plan_tiles
from service.inference.admission import Admission, Ticket, TimeLimit
from service.inference.codec_threads import CodecThreads
from service.inference.decoder_pool import DecoderPool
from service.inference.image_queue import BatchRow, ImageQueue, Slot
from service.inference.tiled_inference import TiledInference
from service.model_directory.manifest import LOGITS_STRIDE, GraphInfo, Manifest
from service.settings import Settings

T = TypeVar("T")
# Of an image file whose header is read before a codec thread is free for it.
_LARGE_FILE_BYTES = 1 << 18
# Most bytes that decoding an ordinary image takes for a pixel: the decoder's own, RGB, and a turned copy.
_BYTES_PER_PIXEL = 12
# Buffers of a decoder that are not counted as pixels.
_SMALL_BYTES = 8 << 20
# Decoding an unusual image: pixels that a slow core decodes in a second, and memory for the decoder itself.
_PIXELS_PER_S = 25_000_000
_SPARE_BYTES = 256 << 20


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
    """Takes image files to answers; decoding and encoding run in ``codec``, the engine behind ``queue``.

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
        queue: ImageQueue,
        codec: CodecThreads,
        decoders: DecoderPool,
        cache: AnswerCache,
        tile_lock: asyncio.Lock,
    ) -> None:
        """``graph`` is the engine's: it has the size of the input and the form of the output.

        Models share admission, codec threads, decoders, cache, and the lock of tiled inference.
        """
        self.manifest = manifest
        self.graph = graph
        self.engine_name = engine_name
        self._settings = settings
        # An answer depends on these besides image and parameters. Runtimes differ in the last bits of the logits.
        self._identity = (manifest.name, manifest.version, repr(manifest.classes), graph.sha256, engine_name)
        self._cache = cache
        self._admission = admission
        self._queue = queue
        self._codec = codec
        self._decoders = decoders
        self._tiled = TiledInference(queue, codec, manifest.num_classes, tile_lock)

    @property
    def seconds_per_image(self) -> float:
        """Seconds of the engine for an image, by its latest batches."""
        return self._queue.seconds_per_image

    def admit(
        self, limit: TimeLimit | None = None, *, accepted: bool = False, places: int = 0
    ) -> AbstractAsyncContextManager[Ticket]:
        """Admit a request before its body is read; all of its work belongs inside the block.

        Args:
            limit: The time of the request; default: ``request_timeout_s``.
            accepted: True for a part of a request that was admitted before; a drain admits it too.
            places: Those of a request that is inside and takes one more, see ``Admission.permit``.

        Raises:
            Overloaded, Draining: No room, or the process stops.
            DeadlineExceeded: The block took longer than the limit.
        """
        return self._admission.permit(limit, accepted=accepted, places=places, owner=self._queue)

    def shorten(self, ticket: Ticket, limit: TimeLimit) -> None:
        """See ``Admission.shorten``."""
        self._admission.shorten(ticket, limit)

    def hold_open(self) -> AbstractContextManager[None]:
        """Make a drain, and the end of this version, wait for a request whose parts are admitted one by one."""
        return self._admission.hold_open(self._queue)

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
            Overloaded, Draining, EngineDown, DeadlineExceeded: See ``Admission.count_pixels`` and ``Slot.run``.
        """
        ticket.enter("decode")
        if options.mode is InputMode.TILE:
            return await self._segment_tiled(data, options, ticket, known)
        if len(data) > _LARGE_FILE_BYTES:
            # A refusal by the pixels should not wait for a codec thread.
            await asyncio.to_thread(self._count_pixels, data, ticket)
        async with self._queue.slot(ticket.deadline) as slot:
            begun = await self.run_job(lambda: self._begin(data, options, ticket, known, slot), ticket, slot)
            if isinstance(begun, EncodedAnswer):
                return begun
            tag, size = begun
            output = (await self._run(slot, ticket)).output
            answer_size = self.graph.input_size if options.size is AnswerSize.MODEL else size
            prediction = _Prediction(
                _stretched(size, self.graph.input_size), lambda: _segmentation(output, answer_size, options)
            )
            content = await self.run_job(lambda: self._finish(prediction, options, data, ticket), ticket, slot)
        self._cache.put(tag, content)
        return EncodedAnswer(content, tag)

    async def infer_file(self, data: bytes, ticket: Ticket, use: Callable[[Rows], T]) -> T:
        """Run the engine on an image file, stretched to the model's input, and ``use`` its output in a codec thread.

        Raises:
            ServiceError: As in ``segment``.
        """

        def fill(slot: Slot) -> None:
            with ticket.stage("decode"):
                image = self._count_pixels(data, ticket)
                pixels = self._decode(data, AnswerOptions(), ticket, image)
                resize_to_input(pixels, self.graph.input_size, out=slot.image)

        return await self._infer(fill, ticket, use)

    async def infer_pixels(self, image: NDArray[np.uint8], ticket: Ticket, use: Callable[[Rows], T]) -> T:
        """Run the engine on RGB pixels (h, w, 3) of the model's input size; ``use`` its output in a codec thread.

        Raises:
            EngineFailure, Overloaded, Draining, EngineDown, DeadlineExceeded: As in ``segment``.
        """
        height, width, _ = image.shape
        self._admission.count_pixels(ticket, height * width)
        return await self._infer(lambda slot: np.copyto(slot.image, image), ticket, use)

    async def run_job(self, job: Callable[[], T], ticket: Ticket, slot: Slot | None = None) -> T:
        """Run ``job`` in a codec thread and record the wait for the thread; cancellation takes it out of the line.

        ``slot`` is one that the job reads or writes.
        """
        submitted = time.perf_counter()

        def work() -> T:
            ticket.stopwatch.record("wait", submitted, time.perf_counter())
            return job()

        running = self._codec.submit(work)
        try:
            return await running.result
        except asyncio.CancelledError:
            if slot is not None:  # the thread continues and still uses the slot
                slot.hold(running)
            raise

    async def _segment_tiled(
        self, data: bytes, options: AnswerOptions, ticket: Ticket, known: Collection[str]
    ) -> EncodedAnswer:
        tag = await asyncio.to_thread(self._tag, data, options)
        if (answer := self._answered(tag, known)) is not None:
            return answer
        await asyncio.to_thread(self._count_pixels, data, ticket)
        async with self._tiled.reserve(ticket):
            prediction = await self._predict_tiled(data, options, ticket)
            content = await self.run_job(lambda: self._finish(prediction, options, data, ticket), ticket)
        self._cache.put(tag, content)
        return EncodedAnswer(content, tag)

    async def _predict_tiled(self, data: bytes, options: AnswerOptions, ticket: Ticket) -> _Prediction:
        """Run the model on the image in windows; on the stretched image where one window is enough."""

        def prepare() -> tuple[NDArray[np.uint8], TilePlan | None]:
            with ticket.stage("decode"):
                pixels = self._decode(data, options, ticket)
                return pixels, plan_tiles(pixels.shape[:2], self.graph.input_size, LOGITS_STRIDE)

        pixels, plan = await self.run_job(prepare, ticket)
        size = pixels.shape[:2]
        if plan is None:
            input_size = self.graph.input_size
            segmentation = await self._infer(
                lambda slot: resize_to_input(pixels, input_size, out=slot.image),
                ticket,
                lambda output: _segmentation(output, input_size if options.size is AnswerSize.MODEL else size, options),
            )
            return _Prediction(_stretched(size, input_size), lambda: segmentation)
        paints = [label_map, confidence_map] if options.needs_confidence else [label_map]
        labels, *rest = await self._tiled.run(pixels, plan, paints, ticket)
        confidence = rest[0] if rest else None
        processing = Processing(mode=InputMode.TILE, windows=plan.num_windows, scale_x=1.0, scale_y=1.0)
        return _Prediction(processing, lambda: _restricted(Segmentation(labels, confidence), options))

    async def _infer(self, fill: Callable[[Slot], object], ticket: Ticket, use: Callable[[Rows], T]) -> T:
        """Fill a slot, run the engine on it, and use its output; both jobs in codec threads."""
        async with self._queue.slot(ticket.deadline) as slot:
            await self.run_job(lambda: fill(slot), ticket, slot)
            row = await self._run(slot, ticket)
            return await self.run_job(lambda: use(row.output), ticket, slot)

    async def _run(self, slot: Slot, ticket: Ticket) -> BatchRow:
        """Run the engine on the image of a slot."""
        ticket.enter("queue")
        row = await slot.run(ticket.deadline, on_start=lambda: ticket.enter("infer", check=False))
        ticket.stopwatch.record("queue", row.queued, row.started)
        ticket.stopwatch.record("infer", row.started, row.ended)
        ticket.enter("post")
        return row

    def _begin(
        self, data: bytes, options: AnswerOptions, ticket: Ticket, known: Collection[str], slot: Slot
    ) -> EncodedAnswer | tuple[str, tuple[int, int]]:
        """Give the cached answer, or fill the slot and give the answer's tag and the size of the image."""
        with ticket.stage("decode"):
            tag = self._tag(data, options)
            if (answer := self._answered(tag, known)) is not None:
                return answer
            image = None if ticket.pixels else self._count_pixels(data, ticket)
            pixels = self._decode(data, options, ticket, image)
            resize_to_input(pixels, self.graph.input_size, out=slot.image)
            height, width, _ = pixels.shape
            return tag, (height, width)

    def _answered(self, tag: str, known: Collection[str]) -> EncodedAnswer | None:
        """Give the answer that the client or the cache has."""
        if tag in known:
            return EncodedAnswer(None, tag)
        content = self._cache.get(tag)
        return None if content is None else EncodedAnswer(content, tag)

    def _tag(self, data: bytes, options: AnswerOptions) -> str:
        return answer_tag(data, repr(options), *self._identity)

    def _count_pixels(self, data: bytes, ticket: Ticket) -> OpenedImage:
        """Count the pixels that the header announces, or the memory that decoding takes where that is more."""
        image = self._open(data)
        header = image.header
        width, height = header.size
        self._admission.count_pixels(
            ticket, max(width * height, (header.decoding_bytes - _SMALL_BYTES) // _BYTES_PER_PIXEL)
        )
        return image

    def _open(self, data: bytes) -> OpenedImage:
        settings = self._settings
        return open_image(data, max_image_bytes=settings.max_image_bytes, max_image_pixels=settings.max_image_pixels)

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
                pixels=lambda: resize_to_input(self._decode(data, options, ticket), (height, width)),
                seconds=ticket.stopwatch.seconds,
            )

    def _decode(
        self, data: bytes, options: AnswerOptions, ticket: Ticket, image: OpenedImage | None = None
    ) -> NDArray[np.uint8]:
        """Decode in this thread, or in a process where the structure of the file is unusual.

        ``image`` is the file's where it has been opened already.
        """
        image = image or self._open(data)
        settings, header = self._settings, image.header
        if not header.unusual:
            return image.decode(options.background).pixels
        width, height = header.size
        job = Job(
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            background=options.background,
            cpu_s=settings.max_decode_s + width * height / _PIXELS_PER_S,
            memory_bytes=2 * header.decoding_bytes + len(data) + _SPARE_BYTES,
        )
        return self._decoders.decode(data, job, wait_s=ticket.seconds_left)


def _segmentation(output: Rows, size: tuple[int, int], options: AnswerOptions) -> Segmentation:
    """Turn an engine's output for one image into the segmentation that the answer needs."""
    try:
        labels = labels_of(output, size)
    except ValueError as error:
        raise EngineFailure(f"the model's output for this image cannot be used: {error}") from error
    has_scores = output.dtype != np.uint8
    confidence = confidence_map(cast(Logits, output), size) if options.needs_confidence and has_scores else None
    return _restricted(Segmentation(labels, confidence), options)


def _restricted(segmentation: Segmentation, options: AnswerOptions) -> Segmentation:
    return segmentation if options.classes is None else segmentation.restrict(options.classes)


def _stretched(size: tuple[int, int], input_size: tuple[int, int]) -> Processing:
    """Describe how an image of ``size`` (H, W) was stretched to the model's input."""
    (rows, columns), (height, width) = input_size, size
    return Processing(mode=InputMode.RESIZE, windows=1, scale_x=columns / width, scale_y=rows / height)
