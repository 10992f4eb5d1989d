"""The protocol's extension for model repositories, as Triton has it: which models there are, load, unload.

All calls need an API key.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from service.inference_protocol.errors import MANAGEMENT_PATH
from service.inference_protocol.messages import (
    ErrorBody,
    IndexRequest,
    LoadRequest,
    ModelIndexEntry,
    UnloadRequest,
    parse_message,
)
from service.models.entry import IndexEntry
from service.request.body import read_body
from service.request.dependencies import RuntimeOf

# Whoever sends more means another extension, such as the files of a model.
_MAX_BODY_BYTES = 64 * 1024

Name = Annotated[str, Path(description="Name of the model.")]


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in (400, 401, 403, 413, *statuses)}


def _body(message: type[IndexRequest | LoadRequest | UnloadRequest]) -> dict[str, Any]:
    """``requestBody`` of a call; it may be empty."""
    schema = {"$ref": f"#/components/schemas/{message.__name__}"}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


router = APIRouter(prefix=MANAGEMENT_PATH, tags=["Open Inference Protocol v2: model repository"])


@router.post("/index", summary="All models and versions", responses=_responses(), openapi_extra=_body(IndexRequest))
async def index(request: Request, runtime: RuntimeOf) -> list[ModelIndexEntry]:
    """List every version on disk or in service, its state, and why it does not serve."""
    wanted = parse_message(IndexRequest, await read_body(request, _MAX_BODY_BYTES))
    entries = await runtime.models.index()
    return [_entry(entry) for entry in entries if entry.state == "READY" or not wanted.ready]


@router.post(
    "/models/{name}/load",
    summary="Load a model, or switch to another version",
    responses=_responses(404, 500, 503),
    openapi_extra=_body(LoadRequest),
)
async def load(request: Request, runtime: RuntimeOf, name: Name) -> ModelIndexEntry:
    """Load the newest version on disk, or the one that `version` names, and switch to it after its self-check.

    No request is lost: the old version serves until then, and keeps serving if the new one fails. The answer
    comes when the version serves.
    """
    wanted = parse_message(LoadRequest, await read_body(request, _MAX_BODY_BYTES)).parameters
    wanted.refuse_all("a load")
    model = await runtime.models.load(name, wanted.version)
    return ModelIndexEntry(name=name, version=model.version, state="READY", reason="")


@router.post(
    "/models/{name}/unload",
    summary="Serve a model no longer",
    response_class=Response,  # its 200 has no content
    responses=_responses(404, 503),
    openapi_extra=_body(UnloadRequest),
)
async def unload(request: Request, runtime: RuntimeOf, name: Name) -> Response:
    """Take no more requests for a model until it is loaded again; those inside are answered.

    Without its default model the service is not ready.
    """
    parse_message(UnloadRequest, await read_body(request, _MAX_BODY_BYTES))
    await runtime.models.unload(name)
    return Response(status_code=200)


def _entry(entry: IndexEntry) -> ModelIndexEntry:
    return ModelIndexEntry(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
