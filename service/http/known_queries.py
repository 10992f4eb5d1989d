"""A route whose query string FastAPI parses once: solving the parameters takes a sixth of the event loop's time.

Most clients send the same few query strings again and again.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.answers.schemas import SegmentQuery
from service.request.dependencies import TIMEOUT_HEADER, runtime_of, time_limit

_MAX_QUERIES = 256
# Longer ones, such as long lists of classes, are parsed each time.
_MAX_BYTES = 1024


class KnownQueryRoute(APIRoute):
    """Calls its endpoint with the parameters that an equal query string had.

    The endpoint takes ``request``, ``runtime``, ``limit`` and ``query``, and calls ``remember``. A request that states
    its own time limit has all parameters solved.
    """

    def __init__(self, path: str, *args: Any, **options: Any) -> None:
        super().__init__(path, *args, **options)
        self._known: dict[bytes, SegmentQuery] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; of FastAPI's layers a known query passes those of the application alone."""
        query = self._known.get(scope["query_string"])
        request = Request(scope, receive, send)
        if query is None or scope["method"] not in (self.methods or ()) or TIMEOUT_HEADER in request.headers:
            await super().handle(scope, receive, send)
            return
        runtime = await runtime_of(request)
        limit = await time_limit(request, runtime)
        response: Response = await self.endpoint(request, runtime, limit, query)
        await response(scope, receive, send)

    def remember(self, text: bytes, query: SegmentQuery) -> None:
        """Keep the parameters of a query string."""
        if len(text) <= _MAX_BYTES and text not in self._known:
            if len(self._known) >= _MAX_QUERIES:
                del self._known[next(iter(self._known))]
            self._known[text] = query


def remember(request: Request, query: SegmentQuery) -> None:
    """Keep the parameters of a query string that is valid; for the endpoint of a ``KnownQueryRoute``."""
    route: KnownQueryRoute = request.scope["route"]
    route.remember(request.scope["query_string"], query)
