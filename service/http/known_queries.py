"""A route whose query string FastAPI parses once: solving the parameters takes a sixth of the event loop's time.

Most clients send the same few query strings again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.answers.schemas import SegmentQuery
from service.request.dependencies import TIMEOUT_HEADER, runtime_of, time_limit

_MAX_QUERIES = 256
# Longer ones, such as long lists of classes, are parsed each time.
_MAX_BYTES = 1024
TAGS_HEADER = "If-None-Match"
_KEY = "ecenet.known_queries"


class KnownQueryRoute(APIRoute):
    """Calls its endpoint with the parameters that an equal query string had.

    The endpoint takes ``request``, ``runtime``, ``limit``, ``query`` and ``if_none_match``, and calls ``remember``.
    A request that states its own time limit has all parameters solved.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind a lookup of known query strings."""
        solve = super().get_route_handler()
        known: dict[bytes, SegmentQuery] = {}

        async def handle(request: Request) -> Response:
            request.scope[_KEY] = known
            query = known.get(request.scope["query_string"])
            if query is None or TIMEOUT_HEADER in request.headers:
                return await solve(request)
            runtime = await runtime_of(request)
            limit = await time_limit(request, runtime)
            response: Response = await self.endpoint(request, runtime, limit, query, request.headers.get(TAGS_HEADER))
            return response

        return handle


def remember(request: Request, query: SegmentQuery) -> None:
    """Keep the parameters of a query string that is valid."""
    known: dict[bytes, SegmentQuery] = request.scope[_KEY]
    text = request.scope["query_string"]
    if len(text) <= _MAX_BYTES and text not in known:
        if len(known) >= _MAX_QUERIES:
            del known[next(iter(known))]
        known[text] = query
