"""HTTP: paths, headers, bodies. ``pipeline`` and ``runtime`` do the work behind them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.answers.encode import EncodedAnswer
from service.answers.options import AnswerOptions, resolve_options
from service.answers.schemas import AnswerFormat, Health, SegmentQuery
from service.http.etag import TAGS_HEADER, format_tag, parse_tags
from service.http.known_queries import KnownQueryRoute, remember
from service.http.openapi import PROBLEM_RESPONSES, SEGMENT_RESPONSES, segment_request
from service.http.upload import read_image
from service.metrics import CONTENT_TYPE, SEGMENT_PATH
from service.request.dependencies import RuntimeOf, TimeLimitOf, pipeline_for
from service.request.disconnect import cancel_on_disconnect
from service.request.headers import list_header
from service.request.state import state_of

router = APIRouter()
segment_router = APIRouter(route_class=KnownQueryRoute)


QueryOf = Annotated[SegmentQuery, Query()]


@segment_router.post(
    SEGMENT_PATH,
    summary="Segment an image",
    response_class=Response,
    responses=SEGMENT_RESPONSES,
    openapi_extra=segment_request(),
)
async def segment(request: Request, runtime: RuntimeOf, limit: TimeLimitOf, query: QueryOf) -> Response:
    """Give every pixel of an image its class.

    Send the image as field `file` of a form, as the body itself, or in JSON as base64 or data URI. The answer has the
    size of the image, turned upright by its EXIF orientation. Its `ETag` names image, parameters and model; an equal
    request with it as `If-None-Match` is answered 304 without the model being run.
    """
    remember(request, query)
    pipeline = pipeline_for(request, query.model)
    options = resolve_options(query, list_header(request.headers, "accept"), pipeline.manifest, pipeline.graph)
    state = state_of(request.scope)
    state.answer_format = options.format
    async with pipeline.admit(limit) as ticket:
        state.stopwatch = ticket.stopwatch
        with ticket.stage("read"):
            limit_bytes = runtime.settings.max_image_bytes
            image = await read_image(request, limit_bytes, lambda job: pipeline.run_job(job, ticket))
        known = parse_tags(list_header(request.headers, TAGS_HEADER))
        work = pipeline.segment(image.content, options.named(image.name), ticket, known=known)
        answer = await cancel_on_disconnect(request, work)
    response = _response(answer, options, pipeline.manifest.version)
    if response.status_code == HTTPStatus.OK:
        runtime.metrics.request_succeeded(pipeline.manifest.name, ticket.stopwatch)
    return response


@router.get("/healthz", summary="Is the process alive?", responses=PROBLEM_RESPONSES)
async def healthz(runtime: RuntimeOf) -> Health:
    """200 as long as the process can do its work; 503 when a supervisor should replace it."""
    runtime.check_alive()
    return Health(status="ok", state=runtime.lifecycle.state)


@router.get("/readyz", summary="Does it take requests?", responses=PROBLEM_RESPONSES)
async def readyz(runtime: RuntimeOf) -> Health:
    """200 when the default model is loaded and warm; 503 before, and from SIGTERM on."""
    runtime.check_ready()
    return Health(status="ok", state=runtime.lifecycle.state)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(runtime: RuntimeOf) -> Response:
    """Counters, gauges and histograms in Prometheus's text format."""
    return Response(await runtime.metrics.scrape(), media_type=CONTENT_TYPE)


def _response(answer: EncodedAnswer, options: AnswerOptions, model_version: str) -> Response:
    # The timings in JSON are those of one run.
    tag = format_tag(answer.tag, weak=options.format is AnswerFormat.JSON)
    headers = {"ETag": tag, "Vary": "Accept", "X-Model-Version": model_version}
    if answer.content is None:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(answer.content, media_type=options.media_type, headers=headers)
