"""Clients' services that are functions of the test, and waits that are only written down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import httpx

from service.client import AsyncClient, Client

Reply = httpx.Response | Exception
URL = "http://host:8000"


class Waits(list[float]):
    """Seconds that were waited."""

    async def wait(self, seconds: float) -> None:
        self.append(seconds)


class Replies:
    """Answers requests in turn, the last reply again and again; an exception is raised.

    Attributes:
        requests: What was received.
    """

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[httpx.Request] = []
        self._replies = list(replies)
        self._lock = threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


class MakeClient(Protocol):
    """Makes a client of a function."""

    def __call__(
        self, service: Callable[[httpx.Request], httpx.Response], url: str = URL, **options: Any
    ) -> Client: ...


class MakeAsyncClient(Protocol):
    """Makes an asynchronous client of a function."""

    def __call__(
        self, service: Callable[[httpx.Request], httpx.Response], url: str = URL, **options: Any
    ) -> AsyncClient: ...


class MakeProblem(Protocol):
    """Makes an error as the service tells it."""

    def __call__(self, status: int, retry_after: str | None = None, **members: Any) -> httpx.Response: ...
