"""The service without a server: the same application, spoken to inside this process."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from model_export.manifest import ManifestError
from service.app import create_app
from service.client.errors import ModelUnusable
from service.runtime import Runtime
from service.settings import Settings

URL = "http://in-process"


class LocalSettings(Settings):
    """Settings for one's own images: the widest limits, and nothing from the environment, which speaks to servers."""

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
async def local_http(model_dir: Path | None, concurrency: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service in this process, with its model loaded and proven.

    Args:
        model_dir: The model; the bundled one if not given.
        concurrency: Requests that will be made at once.

    Raises:
        ModelUnusable: The text says why.
    """
    # Pillow's remarks on odd metadata, see service.image_codec.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        app = create_app(LocalSettings(model_dir=model_dir, max_queue_size=concurrency))
    except ManifestError as error:
        raise ModelUnusable(str(error)) from error
    runtime: Runtime = app.state.runtime
    async with app.router.lifespan_context(app):
        await runtime.started.wait()
        if runtime.lifecycle.failure:
            raise ModelUnusable(runtime.lifecycle.failure)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, timeout=None) as http:  # noqa: S113
            yield http
