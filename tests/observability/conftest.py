"""The metrics of a service that has answered a request, and what rules record of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.engines.names import RUNTIMES
from service.settings import Settings
from tests.observability.promql import Catalogue, add_recorded, catalogue_of
from tests.observability.shipped import rules


@pytest.fixture(scope="session")
def exposition(shared_model_dir: Path) -> str:
    """What ``/metrics`` of a ready service says."""
    return asyncio.run(_scrape(Settings(model_dir=shared_model_dir, engine_threads=1, codec_threads=1)))


@pytest.fixture(scope="session")
def catalogue(exposition: str) -> Catalogue:
    """All metrics that expressions may name."""
    found = catalogue_of(exposition)
    # One service has one engine; which others there are is known too.
    found["ecenet_model_info"]["engine"] |= set(RUNTIMES)
    return add_recorded(found, rules())


async def _scrape(settings: Settings) -> str:
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        await app.state.runtime.started.wait()
        return (await http.get("/metrics")).text
