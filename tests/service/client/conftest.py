"""Clients whose service is a function of the test, and whose waits are only written down."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.client import AsyncClient, Client
from tests.support.replies import URL, MakeAsyncClient, MakeClient, MakeProblem, Replies, Waits

Service = Callable[[httpx.Request], httpx.Response]
LABELS = (np.arange(35).reshape(5, 7) % 3).astype(np.uint8)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(waits: Waits) -> MakeClient:
    """Makes a client of a function."""

    def make(service: Service, url: str = URL, **options: Any) -> Client:
        http = httpx.Client(transport=httpx.MockTransport(service))
        return Client(url, http=http, sleep=waits.append, **options)

    return make


@pytest.fixture
def async_client(waits: Waits) -> MakeAsyncClient:
    """Makes an asynchronous client of a function."""

    def make(service: Service, url: str = URL, **options: Any) -> AsyncClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(service))
        return AsyncClient(url, http=http, sleep=waits.wait, **options)

    return make


@pytest.fixture
def replies() -> type[Replies]:
    return Replies


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    return LABELS


@pytest.fixture
def labelled() -> httpx.Response:
    """The service's answer of ``labels``."""
    stream = io.BytesIO()
    Image.fromarray(LABELS).save(stream, "PNG")
    headers = {
        "content-type": "image/png",
        "x-request-id": "abc",
        "x-model-version": "brightness/1.2.3",
        "server-timing": "decode;dur=1.5, infer;dur=20, cached, total;dur=30.0",
    }
    return httpx.Response(200, content=stream.getvalue(), headers=headers)


@pytest.fixture
def problem() -> MakeProblem:
    """Makes an error as the service tells it."""

    def make(status: int, retry_after: str | None = None, **members: Any) -> httpx.Response:
        headers = {"content-type": "application/problem+json", "x-request-id": "abc"}
        if retry_after is not None:
            headers["retry-after"] = retry_after
        document = {"type": "overloaded", "title": "Too many", "status": status, "detail": "64 are inside", **members}
        return httpx.Response(status, json=document, headers=headers)

    return make
