"""HTTP: paths, headers, bodies. What is behind them is in ``pipeline`` and ``runtime``."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response

from service.errors import ClientGone
from service.metrics import CONTENT_TYPE, SEGMENT_PATH
from service.openapi import PROBLEM_RESPONSES, SEGMENT_RESPONSES, segment_request_body
from service.runtime import Runtime, release
from service.schemas import AnswerFormat, Health, ModelInfo, Welcome
from service.upload import read_image

T = TypeVar("T")
router = APIRouter()


async def runtime_of(request: Request) -> Runtime:
    """The runtime that ``create_app`` made; a coroutine, as FastAPI would call a function in a thread."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(runtime_of)]
FormatQuery = Annotated[
    AnswerFormat,
    Query(
        alias="format",
        description="`labels`: PNG whose pixel values are class ids, with the classes' colours as palette. "
        "`color`: RGB PNG of the classes' colours. `overlay`: these blended with the image. "
        "`json`: pixels and share of every class.",
    ),
]


@router.post(
    SEGMENT_PATH,
    summary="Segment an image",
    response_class=Response,
    responses=SEGMENT_RESPONSES,
    openapi_extra=segment_request_body(),
)
async def segment(request: Request, runtime: RuntimeOf, answer_format: FormatQuery = AnswerFormat.LABELS) -> Response:
    """Give every pixel of an image its class.

    Send the image as field `file` of a form, or as the body itself. The answer has the size of the image, turned
    upright by its EXIF orientation.
    """
    request.state.answer_format = answer_format
    async with runtime.pipeline.admit() as ticket:
        request.state.stopwatch = ticket.stopwatch
        with ticket.stopwatch.measure("read"):
            data = await read_image(request, runtime.settings.max_image_bytes)
        content = await _unless_gone(request, runtime.pipeline.segment(data, answer_format, ticket))
    runtime.metrics.request_succeeded(ticket.stopwatch)
    return Response(content, media_type=answer_format.media_type)


@router.get("/healthz", summary="Is the process alive?", responses=PROBLEM_RESPONSES)
async def healthz(runtime: RuntimeOf) -> Health:
    """200 as long as the process can do its work; 503 when a supervisor should replace it."""
    runtime.check_alive()
    return Health(status="ok", state=runtime.lifecycle.state)


@router.get("/readyz", summary="Does it take requests?", responses=PROBLEM_RESPONSES)
async def readyz(runtime: RuntimeOf) -> Health:
    """200 when the model is loaded and warm; 503 before, and from SIGTERM on."""
    runtime.check_ready()
    return Health(status="ok", state=runtime.lifecycle.state)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(runtime: RuntimeOf) -> Response:
    """Counters, gauges and histograms in Prometheus's text format."""
    return Response(runtime.metrics.expose(), media_type=CONTENT_TYPE)


@router.get("/", include_in_schema=False)
async def welcome(request: Request, runtime: RuntimeOf) -> Welcome:
    """Where to go from here."""
    url = f"{request.url_for('segment')}?format=color"
    model = ModelInfo(name=runtime.manifest.name, version=runtime.manifest.version)
    example = f"curl -F file=@photo.png '{url}' -o mask.png"
    return Welcome.model_validate(
        {"service": "ecenet", "version": release(), "model": model, "docs": "/docs", "try": example}
    )


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client hangs up.

    Raises:
        ClientGone: It did.
    """
    result = asyncio.create_task(work)
    departure = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait((result, departure), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientGone("the client left before the answer")
        return result.result()
    finally:
        result.cancel()
        departure.cancel()
        await asyncio.gather(result, departure, return_exceptions=True)


async def _departure(request: Request) -> None:
    """Wait until the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
