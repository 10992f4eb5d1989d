"""A client of an app with a fake engine, and what the tests ask of its answers."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from service.inference.batcher import Batcher
from service.inference.pipeline import Pipeline
from service.runtime import Runtime

LABEL = re.compile(r'\w+="[^"]*"')


class Api:
    """A client of an app with the fake engine, and what the tests ask of its answers."""

    def __init__(self, app: FastAPI, http: httpx.AsyncClient) -> None:
        self.app = app
        self.http = http
        self.runtime: Runtime = app.state.runtime

    async def post(self, data: bytes, **parameters: str) -> httpx.Response:
        headers = {"Content-Type": "image/png"}
        return await self.http.post("/segment", params=parameters, content=data, headers=headers)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers=headers)

    @property
    def pipeline(self) -> Pipeline:
        return self.runtime.pipeline()

    @property
    def batcher(self) -> Batcher:
        worker = getattr(self.app.state, "worker", None)
        if worker is not None:
            return worker.batcher
        queue = self.runtime.models.serving().queue
        assert isinstance(queue, Batcher)
        return queue

    async def metric(self, series: str) -> float:
        """Sum of the series of a name that have the labels named, of which there must be one."""
        name, _, labels = series.partition("{")
        wanted = set(LABEL.findall(labels))
        lines = (await self.get("/metrics")).text.splitlines()
        found = [line for line in lines if re.match(rf"{name}[{{ ]", line) and wanted <= set(LABEL.findall(line))]
        assert found, series
        return sum(float(line.rpartition(" ")[2]) for line in found)

    async def until_queued(self, count: int) -> None:
        while await self.metric("ecenet_queue_depth") != count:  # noqa: ASYNC110  the metric is what is tested
            await asyncio.sleep(0)

    @staticmethod
    def pixels(response: httpx.Response) -> NDArray[np.uint8]:
        """Samples of a PNG that was the answer."""
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(response.content)))

    @staticmethod
    def check_problem(response: httpx.Response, status: int, slug: str, *words: str) -> dict[str, Any]:
        """Check the body of an error; gives it."""
        problem: dict[str, Any] = response.json()
        assert response.status_code == problem["status"] == status
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["type"] == slug
        assert problem["request_id"] == response.headers["x-request-id"]
        assert problem["title"]
        assert problem["instance"] == response.request.url.path
        assert all(word in problem["detail"] for word in words), problem["detail"]
        return problem


class Running(Protocol):
    """Starts and stops an app; ``warm=False`` does not wait for the model."""

    def __call__(self, app: FastAPI, *, warm: bool = True) -> AbstractAsyncContextManager[Api]: ...


class Serving(Protocol):
    """Serves with some settings; ``warm=False`` does not wait for the model."""

    def __call__(self, *, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]: ...


@asynccontextmanager
async def running_app(app: FastAPI, *, warm: bool = True) -> AsyncIterator[Api]:
    """Start and stop an app; ``warm=False`` does not wait for the model."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        if warm:
            await app.state.runtime.started.wait()
        yield Api(app, http)
