"""Wires the parts to an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from model_export.manifest import Manifest, read_manifest
from service.bundled_model import bundled_model_dir
from service.engines.base import Engine
from service.engines.create import create_engine
from service.engines.proof import prove_engine
from service.openapi import add_schemas
from service.problems import add_problem_handlers
from service.request_context import RequestContext
from service.routes import router
from service.runtime import Runtime, release
from service.settings import Settings


def create_app(settings: Settings, engine: Engine | None = None, manifest: Manifest | None = None) -> FastAPI:
    """The application; its lifespan loads the model, and stops what it started.

    Args:
        settings: How to run.
        engine: In place of the one that the model directory asks for.
        manifest: In place of the one in the model directory, which is not needed when both are given.

    Raises:
        ManifestError: A model directory that cannot be used.
    """
    if engine is not None and manifest is not None:
        return _assemble(Runtime(settings, manifest, lambda: engine))
    model_dir = settings.model_dir or bundled_model_dir()
    manifest = manifest or read_manifest(model_dir)
    load_engine = (lambda: engine) if engine is not None else partial(create_engine, model_dir, manifest, settings)
    prove = partial(prove_engine, model_dir=model_dir, manifest=manifest)
    return _assemble(Runtime(settings, manifest, load_engine, prove))


def _assemble(runtime: Runtime) -> FastAPI:
    app = FastAPI(title="ecenet", summary="Semantic segmentation as a service", version=release(), lifespan=_lifespan)
    app.state.runtime = runtime
    app.add_middleware(RequestContext, metrics=runtime.metrics, lifecycle=runtime.lifecycle)
    add_problem_handlers(app, runtime.metrics)
    app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    runtime: Runtime = app.state.runtime
    await runtime.start()
    try:
        yield
    finally:
        await runtime.stop()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the schemas that only responses in ``service.openapi`` refer to."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        app.openapi_schema = add_schemas(document)
    return app.openapi_schema
