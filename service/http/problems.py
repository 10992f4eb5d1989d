"""Errors as problem documents (RFC 9457): one handler for each family of exceptions, one body for all."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from service.errors import PROBLEM_MEDIA_TYPE, InvalidParameter, ServiceError
from service.inference_protocol.errors import protocol_error, speaks_protocol
from service.request.state import state_of

# What a client has sent is repeated up to here: a target or a parameter may have 64 KB.
_MAX_CHARACTERS = 1000


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document."""

    @app.exception_handler(ServiceError)
    async def on_service_error(request: Request, error: ServiceError) -> Response:
        return problem_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        return problem_response(request, _invalid_parameter(error))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        return _http_problem(request, error)


def problem_response(request: Request, error: ServiceError) -> Response:
    """The answer that reports ``error``."""
    return _response(request, error.problem(), error.headers)


def _response(request: Request, problem: dict[str, Any], headers: dict[str, str]) -> Response:
    path = request.url.path
    body = _shortened({**problem, "instance": path, "request_id": state_of(request.scope).request_id})
    if speaks_protocol(path):
        return protocol_error(body, headers)
    return JSONResponse(body, status_code=problem["status"], headers=headers, media_type=PROBLEM_MEDIA_TYPE)


def _shortened(problem: dict[str, Any]) -> dict[str, Any]:
    """The same members, texts of up to ``_MAX_CHARACTERS``."""
    return {
        name: f"{value[:_MAX_CHARACTERS]}..." if isinstance(value, str) and len(value) > _MAX_CHARACTERS else value
        for name, value in problem.items()
    }


def _invalid_parameter(error: RequestValidationError) -> InvalidParameter:
    first = error.errors()[0]
    name, value = first["loc"][-1], first.get("input")
    if first["type"] == "extra_forbidden":
        return InvalidParameter(f"there is no parameter '{name}'; /docs lists them", extra={"parameter": name})
    extra = {"parameter": name, "value": value, **_bounds(first.get("ctx", {}))}
    return InvalidParameter(f"{name} is {reprlib.repr(value)}: {first['msg']}", extra=extra)


def _bounds(context: Mapping[str, Any]) -> dict[str, Any]:
    """The limit, or the accepted values, that a check of pydantic names."""
    for name in ("le", "lt", "ge", "gt", "max_length"):
        if name in context:
            return {"limit": context[name]}
    return {"accepted": re.findall(r"'([^']+)'", context["expected"])} if "expected" in context else {}


def _http_problem(request: Request, error: HTTPException) -> Response:
    """404, 405 and whatever else the framework raises."""
    title = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {error.detail}"
    problem = {
        "type": title.lower().replace(" ", "-"),
        "title": title,
        "status": error.status_code,
        "detail": detail,
    }
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":  # HeadAsGet answers HEAD too
        headers["Allow"] = "GET, HEAD"
    return _response(request, problem, headers)
