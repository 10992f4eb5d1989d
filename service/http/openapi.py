"""The parts of the OpenAPI document that types cannot express: the forms of a body, and of an answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from service.answers.annotation_schemas import CocoDataset, LabelMeFile, LabelStudioTasks
from service.answers.schemas import ClassContours, ImageBody, Problem, SegmentationSummary
from service.errors import (
    PROBLEM_MEDIA_TYPE,
    BadRequest,
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidParameter,
    NotAcceptable,
    NotAnImage,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    ServiceError,
    UnknownModel,
    UnsupportedImage,
    UnsupportedMedia,
)
from service.http.etag import TAGS_HEADER
from service.http.openapi_examples import LABELS_EXAMPLE, MODELS_EXAMPLE, answer_content, many_images_content
from service.http.upload import FILE_FIELD, JSON, MULTIPART, OCTET_STREAM
from service.inference_protocol.messages import REQUESTS

Responses = dict[int | str, dict[str, Any]]

_BINARY = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_ANSWER_HEADERS = {
    "ETag": {
        "schema": _TEXT,
        "description": "identifies image, parameters and model; weak for `json`, which has timings",
    },
    "Server-Timing": {"schema": _TEXT, "description": "milliseconds of every stage"},
    "X-Model-Version": {"schema": _TEXT, "description": "version of the model that answered"},
    "X-Request-ID": {"schema": _TEXT, "description": "as sent, or a new one"},
}
_UNKNOWN_MODEL = UnknownModel("model 'street' is unknown; served: 'ecenet-lite0-camvid'")
_EXAMPLES: tuple[ServiceError, ...] = (
    NotAnImage("the PNG image is truncated or corrupt: image file is truncated"),
    BadRequest("the multipart form is cut off: its closing boundary is missing"),
    _UNKNOWN_MODEL,
    NotAcceptable(
        "the Accept header 'text/html' allows none of image/png, application/json; change it, or choose with ?format="
    ),
    PayloadTooLarge("the image has 30000000 bytes, at most 20971520 are accepted"),
    UnsupportedMedia("content type is text/plain, accepted are multipart/form-data, image/*, application/json"),
    UnsupportedImage("the image is PSD, accepted are JPEG, PNG, WEBP, BMP, TIFF, GIF"),
    InvalidParameter("unknown class 'Moon'; this model has: Sky, Building (ids 0..1)"),
    EngineFailure("the model failed on this image: out of memory"),
    Overloaded("64 requests are in the service already"),
    DeadlineExceeded("no answer within 30 s"),
)


def segment_request() -> dict[str, Any]:
    """Header ``If-None-Match`` and ``requestBody`` of ``POST /segment``: a form with a file, the image, or JSON."""
    tags = {
        "name": TAGS_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "`ETag` of an answer that you have: 304 if it would be the same.",
    }
    form = {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: _BINARY}}
    content = {
        MULTIPART: {"schema": form},
        "image/*": {"schema": _BINARY},
        OCTET_STREAM: {"schema": _BINARY},
        JSON: {"schema": _reference(ImageBody)},
    }
    return {"parameters": [tags], "requestBody": {"required": True, "content": content}}


def many_images_request_body() -> dict[str, Any]:
    """``requestBody`` of ``POST /segment/batch``: a form with files."""
    files = {"type": "array", "items": _BINARY, "minItems": 1}
    form = {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: files}}
    return {"requestBody": {"required": True, "content": {MULTIPART: {"schema": form}}}}


def _problems(errors: tuple[ServiceError, ...]) -> Responses:
    """One response per status, with an example per error."""
    responses: Responses = {}
    for error in errors:
        response = responses.setdefault(error.status, _problem_response(error.status))
        example = {**error.problem(), "instance": "/segment", "request_id": "4f6c1c0e"}
        response["content"][PROBLEM_MEDIA_TYPE]["examples"][error.slug] = {"value": example}
    return responses


def _problem_response(status: int) -> dict[str, Any]:
    content = {PROBLEM_MEDIA_TYPE: {"schema": _reference(Problem), "examples": dict[str, Any]()}}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _answers() -> dict[str, Any]:
    return {
        "description": "The segmentation, in the format asked for.",
        "headers": _ANSWER_HEADERS,
        "content": answer_content(),
    }


def _catalog(example: dict[str, Any]) -> Responses:
    return {200: {"content": {"application/json": {"example": example}}}, **PROBLEM_RESPONSES}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def add_schemas(document: dict[str, Any]) -> dict[str, Any]:
    """Add the schemas that the responses here refer to, which FastAPI has not seen; gives ``document``."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    models: tuple[type[BaseModel], ...] = (
        *(Problem, ImageBody, SegmentationSummary, ClassContours),
        *(CocoDataset, LabelMeFile, LabelStudioTasks),
        *REQUESTS,
    )
    for model in models:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    return document


def leave_out_nulls(document: dict[str, Any]) -> dict[str, Any]:
    """Remove null from the types of parameters: a query or a header cannot express it; gives ``document``."""
    for path in document["paths"].values():
        for call in path.values():
            for parameter in call.get("parameters", []):
                schema = parameter["schema"]
                kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
                if len(kinds) == 1:
                    del schema["anyOf"]
                    schema.update(kinds[0])
    return document


PROBLEM_RESPONSES = _problems((NotReady("the model is being loaded"), Draining("the process is stopping")))
SEGMENT_RESPONSES: Responses = {
    200: _answers(),
    304: {"description": "The answer is the one whose tag `If-None-Match` names.", "headers": _ANSWER_HEADERS},
    **_problems(_EXAMPLES),
}
MANY_IMAGES_RESPONSES: Responses = {
    200: {
        "description": "An answer or a problem for each image, in the order of the form.",
        "headers": {name: _ANSWER_HEADERS[name] for name in ("X-Model-Version", "X-Request-ID")},
        "content": many_images_content(),
    },
    **_problems(tuple(error for error in _EXAMPLES if not isinstance(error, NotAnImage | UnsupportedImage))),
}
LABELS_RESPONSES = {**_catalog(LABELS_EXAMPLE), **_problems((_UNKNOWN_MODEL,))}
MODELS_RESPONSES = _catalog(MODELS_EXAMPLE)
