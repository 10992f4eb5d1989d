"""HTTP: many images in one request, each with its own answer, sent while the next ones are segmented."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.answers.options import AnswerOptions, resolve_options
from service.answers.schemas import AnswerFormat, SegmentQuery
from service.errors import PROBLEM_MEDIA_TYPE, ClientGone, ServiceError
from service.http.etag import format_tag
from service.http.many_images.envelope import Envelope, Part, choose_envelope, content_headers, new_boundary, stream
from service.http.many_images.memory import ManyImagesMemory, Room
from service.http.multipart_form import FormFile
from service.http.openapi import MANY_IMAGES_RESPONSES, many_images_request_body
from service.http.upload import check_image_bytes, read_images
from service.inference.admission import TimeLimit
from service.inference.pipeline import Pipeline
from service.inference.stopwatch import Stopwatch
from service.metrics import MANY_IMAGES_PATH
from service.request.dependencies import RuntimeOf, TimeLimitOf, pipeline_for
from service.request.headers import list_header
from service.request.state import RequestState, TracedImage, state_of
from service.runtime import Runtime

logger = logging.getLogger(__name__)
router = APIRouter()

# Most images of one request in the pipeline at once: enough to fill the engine's batches.
_MAX_AT_ONCE = 4
# A client that takes less than this within `request_timeout_s` is disconnected.
_PIECE_BYTES = 1 << 18
_EXTENSIONS = {
    "image/png": "png",
    "application/json": "json",
    "application/geo+json": "geojson",
    "application/x-npy": "npy",
    "application/octet-stream": "npy",
}


class ManyImagesQuery(SegmentQuery):
    """Parameters of ``POST /segment/batch``."""

    envelope: Envelope | None = Field(
        None,
        description="`zip`: a ZIP file. `multipart`: a `multipart/mixed` message. If not given, the `Accept` header "
        "decides, and without one it is `zip`.",
    )


async def memory_of(request: Request) -> ManyImagesMemory:
    """Give the memory of the application."""
    memory: ManyImagesMemory = request.app.state.many_images_memory
    return memory


MemoryOf = Annotated[ManyImagesMemory, Depends(memory_of)]


@router.post(
    MANY_IMAGES_PATH,
    summary="Segment many images",
    response_class=Response,
    responses=MANY_IMAGES_RESPONSES,
    openapi_extra=many_images_request_body(),
)
async def segment_many(
    request: Request,
    runtime: RuntimeOf,
    limit: TimeLimitOf,
    query: Annotated[ManyImagesQuery, Query()],
    memory: MemoryOf,
) -> Response:
    """Segment the files in all fields `file` of a form, with the parameters of `/segment`.

    The answer is sent while it is made. It has the answer to every image, in the order of the form, or a problem
    document for an image that failed; the other images are not affected. A ZIP file ends with `index.json`: name,
    status, file and ETag of each image. In a `multipart/mixed` message each part has them as headers `Status`,
    `Content-Disposition` and `ETag`.
    """
    pipeline = pipeline_for(request, query.model)
    # The Accept header chooses the envelope; only a parameter chooses the format inside.
    options = resolve_options(query, None, pipeline.manifest, pipeline.graph)
    envelope = choose_envelope(query.envelope, list_header(request.headers, "accept"))
    with ExitStack() as stack:
        async with pipeline.admit(limit) as ticket:
            room = stack.enter_context(memory.room(pipeline.seconds_per_image))
            state_of(request.scope).stopwatch = ticket.stopwatch
            with ticket.stage("read"):
                settings = runtime.settings
                files = await read_images(
                    request, settings.max_images_per_request, settings.max_many_images_bytes, room
                )
            stack.enter_context(pipeline.hold_open())
        room.settle(len(files), sum(len(file.content) for file in files))
        images = _ManyImages(
            runtime=runtime,
            pipeline=pipeline,
            options=options,
            limit=limit,
            room=room,
            state=state_of(request.scope),
        )
        return _ManyImagesResponse(images, files, envelope, stack.pop_all())


class _ManyImagesResponse(StreamingResponse):
    """Ends the work and frees its memory in every case, also if the client leaves before the first byte."""

    def __init__(self, images: _ManyImages, files: Iterable[FormFile], envelope: Envelope, admitted: ExitStack) -> None:
        boundary = new_boundary()
        headers = {
            **content_headers(envelope, boundary),
            "Vary": "Accept",
            "X-Model-Version": images.model_version,
        }
        super().__init__(_pieces(stream(envelope, boundary, images.answers(files))), headers=headers)
        self._images = images
        self._admitted = admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        timeout_s = self._images.piece_timeout_s

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(timeout_s):
                await send(message)

        with self._admitted:
            try:
                await super().__call__(scope, receive, send_in_time)
            except TimeoutError:
                # The connection is closed, and the client sees that the answer is not whole.
                logger.warning("the client read nothing of the answer for %g s", timeout_s)
            finally:
                await self._images.close()


async def _pieces(content: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for data in content:
        for start in range(0, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]


class _ManyImages:
    """The images of one request, on their way through the pipeline.

    Attributes:
        model_version: Version of the model that answers.
        piece_timeout_s: Seconds that the client has to take a piece of the answer.
    """

    def __init__(
        self,
        *,
        runtime: Runtime,
        pipeline: Pipeline,
        options: AnswerOptions,
        limit: TimeLimit,
        room: Room,
        state: RequestState,
    ) -> None:
        settings = runtime.settings
        self.model_version = pipeline.manifest.version
        self.piece_timeout_s = settings.request_timeout_s
        self._metrics = runtime.metrics
        self._pipeline = pipeline
        self._options = options
        self._limit = limit
        self._room = room
        self._state = state
        self._at_once = min(_MAX_AT_ONCE, settings.max_requests_in_flight)
        self._max_image_bytes = settings.max_image_bytes
        self._waiting: deque[tuple[int, FormFile]] = deque()
        self._running: deque[asyncio.Task[Part]] = deque()
        self._stopwatches: dict[int, Stopwatch] = {}
        self._is_closed = False

    async def answers(self, files: Iterable[FormFile]) -> AsyncGenerator[Part]:
        """Give the answers in the order of the images, several of which run at once; ``close`` must follow."""
        self._waiting.extend(enumerate(files))
        del files  # each is freed with its answer
        while self._waiting or self._running:
            while self._waiting and self._has_room():
                self._running.append(asyncio.create_task(self._answer(*self._waiting.popleft())))
            # An awaited task would be cancelled with this one; ``close`` cancels and counts it instead.
            await asyncio.wait(list(self._running)[:1])
            part = self._running.popleft().result()
            yield part
            self._room.sent(len(part.content))

    async def close(self) -> None:
        """Cancel the images that are left, and count them as departed."""
        self._is_closed = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for _ in self._waiting:
            self._count(ClientGone.status)

    def _has_room(self) -> bool:
        return len(self._running) < (1 if self._room.is_tight else self._at_once)

    async def _answer(self, index: int, file: FormFile) -> Part:
        try:
            part = await self._segment(index, file)
        except ServiceError as error:
            part = self._problem(index, file, error)
        except Exception:
            logger.exception("image %d failed", index)
            part = self._problem(index, file, ServiceError("unexpected error; the log has it under the request id"))
        self._count(part.status)
        self._note(index, part.status)
        self._room.answered(len(file.content), len(part.content))
        return part

    async def _segment(self, index: int, file: FormFile) -> Part:
        check_image_bytes(len(file.content), self._max_image_bytes)
        async with self._pipeline.admit(self._limit, accepted=True) as ticket:
            self._stopwatches[index] = ticket.stopwatch
            try:
                answer = await self._pipeline.segment(file.content, self._options.named(file.name), ticket)
            except asyncio.CancelledError:
                if self._is_closed:
                    raise ClientGone("the client left before the answer") from None
                raise
        self._metrics.request_succeeded(self._pipeline.manifest.name, ticket.stopwatch)
        assert answer.content is not None
        media_type = self._options.media_type
        tag = format_tag(answer.tag, weak=self._options.format is AnswerFormat.JSON)
        name = f"{_stem(index, file)}.{_EXTENSIONS[media_type]}"
        return Part(index, file.name, 200, name, media_type, answer.content, {"ETag": tag})

    def _problem(self, index: int, file: FormFile, error: ServiceError) -> Part:
        body = {**error.problem(), "instance": f"{MANY_IMAGES_PATH}#{index}", "request_id": self._state.request_id}
        content = json.dumps(body).encode()
        name = f"{_stem(index, file)}.problem.json"
        return Part(index, file.name, error.status, name, PROBLEM_MEDIA_TYPE, content, error.headers)

    def _note(self, index: int, status: int) -> None:
        """Add an image to the request's trace."""
        stopwatch = self._stopwatches.pop(index, None) or Stopwatch()
        if self._state.traced_images is not None:
            self._state.traced_images.append(TracedImage(index, status, stopwatch, time.perf_counter()))

    def _count(self, status: int) -> None:
        self._metrics.request_answered(self._pipeline.manifest.name, str(self._options.format), status)


def _stem(index: int, file: FormFile) -> str:
    """Make the name that a client sent safe as a file name on every system."""
    stem = PurePosixPath(file.name.replace("\\", "/")).stem
    return f"{index:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)[:64] or 'image'}"
