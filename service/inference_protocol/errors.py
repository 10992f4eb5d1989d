"""Errors in the protocol's form: an HTTP status and ``{"error": text}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

PATH = "/v2"
MANAGEMENT_PATH = PATH + "/repository"
# To the protocol, whatever a client has got wrong in a request is a bad request.
_STATUSES = {422: 400}


def speaks_protocol(path: str) -> bool:
    """True if errors on ``path`` have the protocol's form."""
    return path == PATH or path.startswith(PATH + "/")


def protocol_error(problem: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """The answer that carries a problem document's ``detail`` and ``status``."""
    status = problem["status"]
    return JSONResponse({"error": problem["detail"]}, _STATUSES.get(status, status), headers=dict(headers))
