"""Arrival of a request, which its deadline counts from."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http.request_context import RequestContext
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.request.state import state_of

pytestmark = pytest.mark.anyio


async def test_arrival_is_noted_before_anything_else_happens_to_the_request() -> None:
    arrivals: list[float] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.02)
        arrivals.append(state_of(scope).arrived)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ignore(message: Message) -> None:
        pass

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    before = asyncio.get_running_loop().time()
    await RequestContext(slow, metrics=Metrics(), lifecycle=Lifecycle())(scope, pytest.fail, ignore)
    after = asyncio.get_running_loop().time()
    assert before <= arrivals[0] <= after - 0.01
