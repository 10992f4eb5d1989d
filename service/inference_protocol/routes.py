"""The paths of the protocol. A model answers under its name, and under its name and version."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from service.errors import PayloadTooLarge
from service.inference.admission import Ticket, TimeLimit
from service.inference.pipeline import Pipeline
from service.inference_protocol.answer import EncodedResponse, assemble
from service.inference_protocol.body import HEADER_LENGTH, decompress
from service.inference_protocol.errors import PATH
from service.inference_protocol.inference import run_inference
from service.inference_protocol.inference_request import Inference, read_inference
from service.inference_protocol.messages import (
    ErrorBody,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.inference_protocol.metadata import model_metadata, server_metadata
from service.inference_protocol.signature import Signature, signature_of
from service.model_metrics import TENSORS
from service.release import release
from service.request.body import read_body
from service.request.dependencies import RuntimeOf, TimeLimitOf, pipeline_for
from service.request.disconnect import cancel_on_disconnect
from service.request.state import state_of
from service.settings import Settings

# JSON around the images.
_MESSAGE_OVERHEAD_BYTES = 64 * 1024
# Factor by which the estimate of the engine's time may be wrong.
_TOLERANCE = 2
_BINARY = {"type": "string", "format": "binary"}


async def name_of_path(name: Annotated[str, Path(description="Name of the model.")]) -> None:
    """Names the parameter in the OpenAPI document."""


async def version_of_path(version: Annotated[str, Path(description="Version of the model.")]) -> None:
    """Names the parameter in the OpenAPI document."""


def _pipeline_of(request: Request) -> Pipeline:
    """The pipeline that the path of a request names, see ``pipeline_for``."""
    return pipeline_for(request, request.path_params["name"], request.path_params.get("version"))


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in statuses}


router = APIRouter(prefix=PATH, tags=["Open Inference Protocol v2"])
model = APIRouter()


@router.get("/health/live", summary="Is the server alive?", responses=_errors(503))
async def server_live(runtime: RuntimeOf) -> ServerLive:
    """200 as long as the process can do its work, like `/healthz`."""
    runtime.check_alive()
    return ServerLive(live=True)


@router.get("/health/ready", summary="Does the server take requests?", responses=_errors(503))
async def server_ready(runtime: RuntimeOf) -> ServerReady:
    """200 when the model is loaded and warm, like `/readyz`."""
    runtime.check_ready()
    return ServerReady(live=True, ready=True)


@router.get("/", include_in_schema=False)
@router.get("", summary="The server's metadata")
async def describe_server() -> ServerMetadata:
    """Name, version and extensions of the server."""
    return server_metadata(release())


@model.get("", summary="The model's metadata", responses=_errors(404, 503))
async def describe_model(request: Request) -> ModelMetadata:
    """Inputs and outputs with their types and shapes; -1 stands for any number of images."""
    pipeline = _pipeline_of(request)
    return model_metadata(pipeline.manifest, pipeline.graph, pipeline.engine_name)


@model.get("/ready", summary="Does the model take requests?", responses=_errors(404, 503))
async def model_ready(request: Request, runtime: RuntimeOf) -> ModelReady:
    """200 when the model is loaded and warm."""
    runtime.check_accepting()
    path = request.path_params
    runtime.models.serving(path["name"], path.get("version"))
    return ModelReady(name=path["name"], ready=True)


@model.post(
    "/infer",
    summary="Infer tensors from tensors",
    response_class=Response,
    responses={
        200: {
            "model": InferenceResponse,
            "description": "Outputs in JSON, or behind it as binary data.",
            "content": {"application/octet-stream": {"schema": _BINARY}},
        },
        **_errors(400, 404, 413, 415, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{InferenceRequest.__name__}"}},
                "application/octet-stream": {"schema": _BINARY},
            },
        }
    },
)
async def infer(request: Request, runtime: RuntimeOf, limit: TimeLimitOf) -> Response:
    """Segment one image or several, sent as pixels at the model's size (`images`) or as files (`image_bytes`).

    The answer is `labels`, class ids at the model's input size, and `logits` where asked for. All images succeed, or
    the request fails with the reason of the first that did not.
    """
    state = state_of(request.scope)
    state.answer_format = TENSORS
    pipeline = _pipeline_of(request)
    signature = signature_of(pipeline.graph, pipeline.manifest.num_classes)
    async with pipeline.admit(limit) as ticket:
        state.stopwatch = ticket.stopwatch
        inference = await _read(request, runtime.settings, pipeline, signature, ticket)
        if inference.timeout_s is not None:
            pipeline.shorten(ticket, TimeLimit(inference.timeout_s, limit.arrived, "parameter 'timeout'"))
        answer = await cancel_on_disconnect(request, _answer(pipeline, inference, signature, ticket))
    runtime.metrics.request_succeeded(pipeline.manifest.name, ticket.stopwatch)
    return _response(answer)


async def _read(
    request: Request, settings: Settings, pipeline: Pipeline, signature: Signature, ticket: Ticket
) -> Inference:
    """Read the request, and parse it in a codec thread."""
    height, width = signature.input_size
    max_bytes = max(settings.max_image_bytes, height * width * 3) + _MESSAGE_OVERHEAD_BYTES
    with ticket.stage("read"):
        body = await read_body(request, max_bytes)

    def parse() -> Inference:
        with ticket.stage("decode"):
            plain = decompress(body, request.headers.get("content-encoding", ""), max_bytes)
            return read_inference(plain, request.headers.get(HEADER_LENGTH), signature, settings.max_requests_in_flight)

    return await pipeline.run_job(parse, ticket)


async def _answer(pipeline: Pipeline, inference: Inference, signature: Signature, ticket: Ticket) -> EncodedResponse:
    """Run the images. Each takes a place in the service: the request's own for the first, one more for each other."""
    _check_time(pipeline, len(inference.images), ticket)
    async with AsyncExitStack() as places:
        others = [
            await places.enter_async_context(pipeline.admit(ticket.limit, places=taken))
            for taken in range(1, len(inference.images))
        ]
        rows = await run_inference(
            pipeline, inference.images, inference.outputs, signature.input_size, [ticket, *others]
        )
        return await pipeline.run_job(
            lambda: assemble(pipeline.manifest.name, pipeline.manifest.version, inference.id, inference.outputs, rows),
            ticket,
        )


def _check_time(pipeline: Pipeline, images: int, ticket: Ticket) -> None:
    """Refuse images that would never be done in time, whatever is ahead of them; one is let try."""
    needed_s, left_s = images * pipeline.seconds_per_image, ticket.seconds_left
    if images > 1 and needed_s > _TOLERANCE * left_s:
        # No 503: a later try would be in vain.
        raise PayloadTooLarge(
            f"the {images} images take about {needed_s:.0f} s, but only {left_s:.0f} s of the request's time are left; "
            "send fewer at once, or ask for more time with X-Request-Timeout-Ms",
            extra={"value": round(needed_s, 1), "limit": round(left_s, 1), "unit": "seconds"},
        )


def _response(answer: EncodedResponse) -> Response:
    if answer.header_length is None:
        return Response(answer.body, media_type="application/json")
    headers = {HEADER_LENGTH: str(answer.header_length)}
    return Response(answer.body, media_type="application/octet-stream", headers=headers)


_NAME = "/models/{name}"
_VERSION = _NAME + "/versions/{version}"
router.include_router(model, prefix=_NAME, dependencies=[Depends(name_of_path)])
router.include_router(model, prefix=_VERSION, dependencies=[Depends(name_of_path), Depends(version_of_path)])
