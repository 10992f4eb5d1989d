"""The app around a shelf of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from service.http.app import assemble
from service.model_directory.manifest import Manifest
from service.settings import Settings
from tests.support.api import Api, Running
from tests.support.shelf import Shelf, Shelving


@pytest.fixture
def shelf(manifest: Manifest) -> Iterator[Shelf]:
    shelf = Shelf(manifest)
    yield shelf
    shelf.gate.set()
    for engine in shelf.made:
        engine.gate.set()


@pytest.fixture
def shelving(shelf: Shelf, running: Running) -> Shelving:
    """Serves what is on the shelf, as ``serving`` does for its one model, with ``KEY`` as API key."""

    def serve(*, warm: bool = True, batch_window_ms: float = 0, **settings: Any) -> AbstractAsyncContextManager[Api]:
        options: dict[str, Any] = {"codec_threads": 2, "engine_timeout_s": 60, **settings}
        # Not among the validated ones: a test may need a longer window than users get.
        window = {"batch_window_ms": batch_window_ms}
        return running(assemble(Settings(**options).model_copy(update=window), shelf), warm=warm)

    return serve
