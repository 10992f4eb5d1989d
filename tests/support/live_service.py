"""A service with a real engine, asked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LiveService:
    """Paths and metrics of a ready service with a real engine.

    Attributes:
        paths: Paths that it answers.
        metrics: Text of its ``/metrics``.
    """

    paths: frozenset[str]
    metrics: str


async def ask_service(model_dir: Path) -> LiveService:
    """Paths and metrics of a service of one model, asked over ASGI."""
    # Most tests that load this module with the outermost conftest.py need no application.
    import httpx  # noqa: PLC0415
    from fastapi.routing import APIRoute  # noqa: PLC0415

    from service.http.app import create_app  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    app = create_app(Settings(model_dir=model_dir, engine_threads=1, codec_threads=1))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://replica") as client,
    ):
        await app.state.runtime.started.wait()
        metrics = (await client.get("/metrics")).text
        document = (await client.get("/openapi.json")).json()
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)} | set(document["paths"])
    return LiveService(frozenset(paths), metrics)
