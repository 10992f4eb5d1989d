"""Wires the parts to an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.engines.base import Engine
from service.http.api_keys import api_keys
from service.http.auth import Authentication, describe_security, warn_if_open
from service.http.catalog import router as catalog_router
from service.http.head import HeadAsGet
from service.http.many_images.memory import ManyImagesMemory
from service.http.many_images.routes import router as many_images_router
from service.http.openapi import add_schemas, leave_out_nulls
from service.http.problems import add_problem_handlers
from service.http.rate_limit import RateLimit
from service.http.request_context import RequestContext
from service.http.routes import router, segment_router
from service.http.token_buckets import Buckets, TokenBuckets
from service.http.tracing import Tracing
from service.inference_protocol.body import HEADER_LENGTH
from service.inference_protocol.repository import router as repository_router
from service.inference_protocol.routes import router as inference_protocol_router
from service.model_directory.manifest import Manifest
from service.models.source import GivenModel, ModelSource, model_source
from service.page.routes import add_pages
from service.release import release
from service.runtime import Runtime, local_models
from service.settings import Settings
from service.traces import BatchSpans, close_provider, tracer_provider

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXPOSED_HEADERS = (
    "X-Request-ID",
    "ETag",
    "Server-Timing",
    "Retry-After",
    "X-Model-Version",
    "WWW-Authenticate",
    HEADER_LENGTH,
)
_CORS_REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "X-Request-ID",
    "X-Request-Timeout-Ms",
    "If-None-Match",
    HEADER_LENGTH,
    "Content-Type",
)
_CORS_METHODS = ("GET", "HEAD", "POST")
_PREFLIGHT_AGE_S = 600


def create_app(settings: Settings, engine: Engine | None = None, manifest: Manifest | None = None) -> FastAPI:
    """The application; its lifespan loads the models, and stops everything that it started.

    Args:
        settings: How to run.
        engine: With ``manifest`` in place of the models in the model directory.
        manifest: What ``engine`` runs.

    Raises:
        ManifestError: No model, or one version of a model in two places.
        ApiKeysError: API keys that cannot be used.
        SettingsError: There is no such default model, or traces are asked for, but OpenTelemetry is not installed.
    """
    if engine is not None and manifest is not None:
        return assemble(settings, GivenModel(engine, manifest))
    return assemble(settings, model_source(settings))


def assemble(settings: Settings, source: ModelSource, *, default_only: bool = False) -> FastAPI:
    """The application around models from anywhere, whose engines run in this process; see ``create_app``.

    ``default_only`` loads no other model than the default one.
    """
    provider = tracer_provider(settings)
    make_models = local_models(source, None if provider is None else BatchSpans(provider))
    return build_app(Runtime(settings, make_models, default_only=default_only), provider)


def build_app(runtime: Runtime, provider: TracerProvider | None, buckets: Buckets | None = None) -> FastAPI:
    """The application around a runtime.

    Args:
        runtime: The runtime, not started.
        provider: Takes the traces; none if None.
        buckets: The rate limits of the settings where several processes share them.
    """
    app = FastAPI(
        title="ecenet",
        summary="Semantic segmentation as a service",
        version=release(),
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to whatever host the request names
    )
    app.state.runtime = runtime
    app.state.tracer_provider = provider
    app.state.many_images_memory = ManyImagesMemory(
        runtime.settings.many_images_memory_bytes, runtime.settings.max_requests_in_flight
    )
    _add_middleware(app, runtime, buckets)
    add_problem_handlers(app)
    # Not included: FastAPI looks for the route of an included router twice.
    app.routes.extend(segment_router.routes)
    app.include_router(router)
    app.include_router(many_images_router)
    app.include_router(catalog_router)
    app.include_router(repository_router)
    app.include_router(inference_protocol_router)
    add_pages(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_middleware(app: FastAPI, runtime: Runtime, buckets: Buckets | None) -> None:
    """Add the middleware. A request passes the last that is added first."""
    settings = runtime.settings
    app.add_middleware(HeadAsGet)
    if settings.rate_limit_per_s is not None:
        if buckets is None:
            buckets = TokenBuckets(settings.rate_limit_per_s, settings.rate_limit_burst)
        app.add_middleware(RateLimit, buckets=buckets, metrics=runtime.metrics)
    app.state.api_keys = keys = api_keys(settings)
    warn_if_open(settings, keys)
    app.add_middleware(Authentication, keys=keys)
    # Outside of the checks: browsers ask for permission without a key, and show refusals only with CORS headers.
    with_cors = _cors(settings.cors_origins)
    app.add_middleware(with_cors)
    if app.state.tracer_provider is not None:
        app.add_middleware(Tracing, provider=app.state.tracer_provider)
    app.add_middleware(RequestContext, metrics=runtime.metrics, lifecycle=runtime.lifecycle, with_cors=with_cors)


def _cors(origins: Sequence[str] | None) -> Callable[[ASGIApp], ASGIApp]:
    """Middleware that opens an application for pages of ``origins``, without cookies: a key goes in a header."""
    if not origins:
        return lambda app: app
    return partial(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=_CORS_METHODS,
        allow_headers=_CORS_REQUEST_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=_PREFLIGHT_AGE_S,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    runtime: Runtime = app.state.runtime
    await runtime.start()
    try:
        yield
    finally:
        await runtime.stop()
        await close_provider(app.state.tracer_provider)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the schemas that only responses in ``service.http.openapi`` refer to."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        add_schemas(leave_out_nulls(document))
        app.openapi_schema = describe_security(document) if app.state.api_keys.are_set else document
    return app.openapi_schema
