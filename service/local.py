"""The service without a server: the same application, spoken to inside this process."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from service.client.errors import ModelUnusable
from service.http.app import assemble
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import ManifestError
from service.models.source import ModelFolder
from service.runtime import Runtime
from service.settings import Settings, SettingsError

URL = "http://in-process"


class LocalSettings(Settings):
    """Settings for the user's own images: the widest limits, and nothing from the environment, which is for servers."""

    max_image_bytes: int = 1 << 30
    max_image_pixels: int = 1 << 30
    request_timeout_s: float = 3600
    cache_bytes: int = 0

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments alone."""
        return (init_settings,)


@asynccontextmanager
async def local_http(
    model_dir: Path | None, concurrency: int, model: str | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service in this process, with its model loaded and proven.

    Args:
        model_dir: The model, or a folder of several; the bundled one if not given.
        concurrency: Requests that will be made at once.
        model: Name of the only one to load; the first if not given.

    Raises:
        ModelUnusable: The text says why.
    """
    # Pillow's remarks on odd metadata, see service.imaging.codec.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        settings = LocalSettings(max_requests_in_flight=concurrency, default_model=model)
        app = assemble(
            settings, ModelFolder(model_dir or bundled_model_dir(), settings.engine_options), default_only=True
        )
    except (ManifestError, SettingsError) as error:
        raise ModelUnusable(str(error)) from error
    runtime: Runtime = app.state.runtime
    async with app.router.lifespan_context(app):
        await runtime.started.wait()
        if runtime.lifecycle.failure:
            raise ModelUnusable(runtime.lifecycle.failure)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, timeout=None) as http:  # noqa: S113
            yield http
