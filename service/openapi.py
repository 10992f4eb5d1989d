"""The parts of the OpenAPI document that types cannot tell: two forms of one body, PNG or JSON as the answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.errors import (
    PROBLEM_MEDIA_TYPE,
    BadRequest,
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidParameter,
    NotAnImage,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMedia,
)
from service.schemas import Problem, SegmentationSummary
from service.upload import FILE_FIELD, MULTIPART, OCTET_STREAM

Responses = dict[int | str, dict[str, Any]]

_BINARY = {"type": "string", "format": "binary"}
_SUMMARY_EXAMPLE = {
    "size": {"width": 480, "height": 360},
    "model": {"name": "ecenet-lite0-camvid", "version": "1.0.0"},
    "classes": [
        {"id": 0, "name": "Sky", "color": [128, 128, 128], "pixels": 57024, "share": 0.33},
        {"id": 1, "name": "Building", "color": [128, 0, 0], "pixels": 115776, "share": 0.67},
    ],
}
_EXAMPLES: tuple[ServiceError, ...] = (
    NotAnImage("the PNG image is truncated or corrupt: image file is truncated"),
    BadRequest("the multipart form is cut off: its closing boundary is missing"),
    PayloadTooLarge("the image has 30000000 bytes, at most 20971520 are accepted"),
    UnsupportedMedia("content type is text/plain, accepted are multipart/form-data, image/*"),
    InvalidParameter("format is 'jpeg': input should be 'labels', 'color', 'overlay' or 'json'"),
    EngineFailure("the model failed on this image: out of memory"),
    Overloaded("64 requests are in the service already"),
    DeadlineExceeded("no answer within 30 s"),
)


def segment_request_body() -> dict[str, Any]:
    """``requestBody`` of ``POST /segment``: a form with a file, or the image itself."""
    form = {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: _BINARY}}
    content = {MULTIPART: {"schema": form}, "image/*": {"schema": _BINARY}, OCTET_STREAM: {"schema": _BINARY}}
    return {"requestBody": {"required": True, "content": content}}


def _problems(errors: tuple[ServiceError, ...]) -> Responses:
    """One response per status, with an example per error."""
    responses: Responses = {}
    for error in errors:
        response = responses.setdefault(error.status, _problem_response(error.status))
        example = {**error.problem(), "instance": "/segment", "request_id": "4f6c1c0e"}
        response["content"][PROBLEM_MEDIA_TYPE]["examples"][error.slug] = {"value": example}
    return responses


def _problem_response(status: int) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    content = {PROBLEM_MEDIA_TYPE: {"schema": reference, "examples": dict[str, Any]()}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _answers() -> dict[str, Any]:
    summary = {"$ref": f"#/components/schemas/{SegmentationSummary.__name__}"}
    content = {
        "image/png": {"schema": _BINARY},
        "application/json": {"schema": summary, "example": _SUMMARY_EXAMPLE},
    }
    return {"description": "The segmentation, in the format asked for.", "content": content}


def add_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schemas that the responses here refer to, which FastAPI has not seen; gives ``document``."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, SegmentationSummary):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return document


PROBLEM_RESPONSES = _problems((NotReady("the model is being loaded"), Draining("the process is stopping")))
SEGMENT_RESPONSES: Responses = {200: _answers(), **_problems(_EXAMPLES)}
