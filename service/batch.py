"""HTTP: many images in one request, answered as a ZIP file that grows while they are segmented."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.admission import TimeLimit
from service.answer_options import AnswerOptions, resolve_options
from service.errors import Overloaded, ServiceError
from service.etag import format_tag
from service.multipart_form import FormFile
from service.openapi import BATCH_RESPONSES, batch_request_body
from service.pipeline import Pipeline
from service.routes import QueryOf, RuntimeOf
from service.runtime import Runtime
from service.schemas import AnswerFormat
from service.time_limit import TimeLimitOf
from service.upload import read_images
from service.zip_stream import stream_zip

logger = logging.getLogger(__name__)
router = APIRouter()

BATCH_PATH = "/segment/batch"
INDEX_NAME = "index.json"
# Images of one request that are in the service at once: enough to fill the engine's batches.
_AT_ONCE = 4
# Requests whose images are held at once.
_MAX_OPEN = 4
_EXTENSIONS = {
    "image/png": "png",
    "application/json": "json",
    "application/geo+json": "geojson",
    "application/x-npy": "npy",
    "application/octet-stream": "npy",
}


class BatchPlaces:
    """How many requests may hold their images at once; admission bounds single images, not those that wait here."""

    def __init__(self, capacity: int = _MAX_OPEN) -> None:
        self._capacity = capacity
        self._taken = 0

    @property
    def taken(self) -> int:
        """Requests inside."""
        return self._taken

    def enter(self) -> None:
        """Take a place.

        Raises:
            Overloaded: There is none.
        """
        if self._taken >= self._capacity:
            raise Overloaded(
                f"{self._capacity} requests of many images are in the service already", extra={"limit": self._capacity}
            )
        self._taken += 1

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1


async def batch_places(request: Request) -> BatchPlaces:
    """The places of the app."""
    places: BatchPlaces = request.app.state.batch_places
    return places


PlacesOf = Annotated[BatchPlaces, Depends(batch_places)]


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image's line in the index: its name as sent, its status, and the file with its answer or problem."""

    index: int
    name: str
    status: int
    file: str
    etag: str | None = None


@router.post(
    BATCH_PATH,
    summary="Segment many images",
    response_class=Response,
    responses=BATCH_RESPONSES,
    openapi_extra=batch_request_body(),
)
async def segment_batch(
    request: Request, runtime: RuntimeOf, limit: TimeLimitOf, query: QueryOf, places: PlacesOf
) -> Response:
    """Segment the files in all fields `file` of a form; parameters are those of `/segment`, and hold for each.

    The answer is a ZIP file, sent while it is made: for every image in the order of the form its answer, or a problem
    document, and at the end `index.json` with name, status and file of each. An image that fails harms no other.
    """
    pipeline = runtime.pipeline
    # A ZIP file is what is accepted; what is in it, only a parameter can tell.
    options = resolve_options(query, None, pipeline.manifest, pipeline.graph)
    places.enter()
    try:
        async with pipeline.admit(limit) as ticket:
            with ticket.measure("read"):
                settings = runtime.settings
                files = await read_images(request, settings.max_batch_images, settings.max_batch_bytes)
    except BaseException:
        places.leave()
        raise
    batch = _Batch(runtime, pipeline, options, limit, request.state.request_id)
    return _ZipResponse(batch.answers(files), places)


class _ZipResponse(StreamingResponse):
    """Gives its place back however it ends, also if the client has left before the first byte."""

    def __init__(self, files: AsyncGenerator[tuple[str, bytes]], places: BatchPlaces) -> None:
        content = stream_zip(files)
        super().__init__(content, media_type="application/zip")
        self._generators: tuple[AsyncGenerator[Any], ...] = (content, files)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.leave()
            for generator in self._generators:
                await generator.aclose()


@dataclass(frozen=True, slots=True)
class _Batch:
    """The images of one request, on their way through the service."""

    runtime: Runtime
    pipeline: Pipeline
    options: AnswerOptions
    limit: TimeLimit
    request_id: str

    async def answers(self, files: Sequence[FormFile]) -> AsyncGenerator[tuple[str, bytes]]:
        """Name and content of the answers in the order of the images, a few of which are in work at once; an index."""
        waiting = deque(enumerate(files))
        running: deque[asyncio.Task[tuple[_Entry, bytes]]] = deque()
        entries = []
        try:
            while waiting or running:
                while waiting and len(running) < min(_AT_ONCE, self.runtime.settings.max_queue_size):
                    running.append(asyncio.create_task(self._answer(*waiting.popleft())))
                entry, content = await running[0]
                running.popleft()
                entries.append(asdict(entry))
                yield entry.file, content
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        yield INDEX_NAME, json.dumps({"images": entries}, indent=1).encode()

    async def _answer(self, index: int, file: FormFile) -> tuple[_Entry, bytes]:
        try:
            async with self.pipeline.admit(self.limit) as ticket:
                answer = await self.pipeline.segment(file.content, self.options, ticket)
        except ServiceError as error:
            return self._problem(index, file, error)
        except Exception:
            logger.exception("image %d failed", index)
            return self._problem(index, file, ServiceError("an unexpected error; the log has it under the request id"))
        self.runtime.metrics.request_succeeded(ticket.stopwatch)
        assert answer.content is not None
        name = f"{_stem(index, file)}.{_EXTENSIONS[self.options.media_type]}"
        tag = format_tag(answer.tag, weak=self.options.format is AnswerFormat.JSON)
        return _Entry(index, file.name, 200, name, tag), answer.content

    def _problem(self, index: int, file: FormFile, error: ServiceError) -> tuple[_Entry, bytes]:
        body = {**error.problem(), "instance": f"{BATCH_PATH}#{index}", "request_id": self.request_id}
        return _Entry(index, file.name, error.status, f"{_stem(index, file)}.problem.json"), json.dumps(body).encode()


def _stem(index: int, file: FormFile) -> str:
    """What can be a file's name anywhere, from what a client said."""
    stem = PurePosixPath(file.name.replace("\\", "/")).stem
    return f"{index:04d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)[:64] or 'image'}"
