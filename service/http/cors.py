"""Lets web pages of other origins call the service; none may unless the settings name them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.inference_protocol.body import HEADER_LENGTH

EXPOSED_HEADERS = (
    "X-Request-ID",
    "ETag",
    "Server-Timing",
    "Retry-After",
    "X-Model-Version",
    "WWW-Authenticate",
    HEADER_LENGTH,
)
_REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    "If-None-Match",
    HEADER_LENGTH,
    "Content-Type",
)
_METHODS = ("GET", "HEAD", "POST")
_PREFLIGHT_AGE_S = 600


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Open ``app`` for pages of ``origins``, without cookies: a key goes in a header."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_REQUEST_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=_PREFLIGHT_AGE_S,
    )
