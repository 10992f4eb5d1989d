"""The service that the manifests talk about: its paths, and what a replica really tells Prometheus."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from kubernetes_validate import utils

from service.app import create_app
from service.settings import Settings
from tests.observability.promql import Catalogue, catalogue_of


@dataclass(frozen=True, slots=True)
class Service:
    """What a running replica shows.

    Attributes:
        paths: Paths that it answers.
        catalogue: What its ``/metrics`` has.
    """

    paths: frozenset[str]
    catalogue: Catalogue


@pytest.fixture(scope="session", autouse=True)
def cached_schemas() -> Iterator[None]:
    """kubernetes-validate would read a megabyte of definitions for each object anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.fixture(scope="session")
def service(shared_model_dir: Path) -> Service:
    """A replica with a real engine, asked over ASGI."""
    return asyncio.run(_ask(Settings(model_dir=shared_model_dir, engine_threads=1, codec_threads=1)))


async def _ask(settings: Settings) -> Service:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://replica") as client,
    ):
        await app.state.runtime.started.wait()
        text = (await client.get("/metrics")).text
        document = (await client.get("/openapi.json")).json()
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)} | set(document["paths"])
    return Service(frozenset(paths), catalogue_of(text))
