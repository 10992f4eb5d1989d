"""Lets in requests with a valid API key, before anything of their body is read."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, RateLimited, ServiceError, Unauthorized
from service.http.api_keys import ApiKeys
from service.http.problems import problem_response
from service.inference_protocol.errors import MANAGEMENT_PATH
from service.request.state import state_of
from service.settings import Settings

logger = logging.getLogger(__name__)

# What has no images and no labels to give: health for load balancers, metrics, and pages with their documents, which a
# browser asks for without a key. Everything else needs one, later additions included.
OPEN_PATHS = frozenset(
    {"/", "/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}
)
OPEN_FOLDERS = ("/static/",)


class Authentication:
    """ASGI middleware; it notes the name of the key's owner in the request's state."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except ServiceError as error:
                await problem_response(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Identify the owner of the key.

        Raises:
            Unauthorized: No key that is valid.
            Forbidden: A management call, which nobody may make where no keys are set.
        """
        path = scope["path"]
        if is_open(path):
            return
        if self._keys.are_set:
            state_of(scope).api_key = self._owner(Headers(scope=scope))
        elif is_management(path):
            raise Forbidden(f"{path} needs an API key and none is set; set --api-keys-file or ECENET_API_KEYS")

    def _owner(self, headers: Headers) -> str:
        key = sent_key(headers)
        if not key:
            raise Unauthorized(
                "an API key is required, as Authorization: Bearer KEY or as X-API-Key: KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        owner = self._keys.owner(key)
        if owner is None:
            raise Unauthorized(
                "the API key that was sent is not valid", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            )
        return owner


def describe_security(document: dict[str, Any]) -> dict[str, Any]:
    """Describe in an OpenAPI document which calls need a key, and how to send it; gives ``document``."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, calls in document["paths"].items():
        if not is_open(path):
            for call in calls.values():
                call["security"] = [{"bearer": []}, {"header": []}]
                for refusal in (Unauthorized, RateLimited):
                    call["responses"][str(refusal.status)] = {"description": refusal.title}
    return document


def is_open(path: str) -> bool:
    """True if ``path`` needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def is_management(path: str) -> bool:
    """True if ``path`` is a management call, which changes the served models."""
    return path == MANAGEMENT_PATH or path.startswith(MANAGEMENT_PATH + "/")


def sent_key(headers: Headers) -> bytes:
    """The key of a request; ``X-API-Key`` comes first, as a gateway may use ``Authorization``."""
    key = headers.get("x-api-key", "")
    if not key:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        key = credentials.strip() if scheme.lower() == "bearer" else ""
    return key.encode("latin-1")


def warn_if_open(settings: Settings, keys: ApiKeys) -> None:
    """Log a warning if other machines can use the service without a key."""
    if not keys.are_set and not is_loopback(settings.host):
        logger.warning(
            "listening on %s without API keys: every client that can reach the port can use the service; "
            "--api-keys-file or ECENET_API_KEYS sets keys",
            settings.host,
        )


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
