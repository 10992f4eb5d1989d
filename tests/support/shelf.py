"""Models in memory, which come, change, break and go as a test wants."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError
from service.model_directory.manifest import GraphInfo, Manifest, ManifestError
from service.models.repository import Repository
from service.models.source import FoundModel, LoadedModel
from tests.support.api import Api
from tests.support.limits import HANG_S

# The API key of apps around a shelf.
KEY = "0123456789abcdef"


class ShelfEngine:
    """Gives every pixel the class that is its version's number; runs when its gate is open, never once it is closed."""

    name = "fake"
    num_classes = 3
    max_batch_size = 8
    warm_up_sizes = (1,)

    def __init__(self, manifest: Manifest) -> None:
        self.graph = manifest.graph
        self.version = manifest.version
        self.closed = threading.Event()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.gate.set()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.gate.wait(HANG_S)
        assert not self.closed.is_set(), "an engine was run after its end"
        rows = np.zeros((len(images), 3, 8, 16), np.float32)
        rows[:, int(self.version[0])] = 1
        return rows

    def close(self) -> None:
        self.closed.set()


class Shelf:
    """A source of models; a version's first digit is the class that it gives every pixel.

    Attributes:
        problems: By name and version, why a load fails.
        is_away: Whether the folder cannot be found.
        engines: All that were made, by name and version, the latest of each.
        gate: Open while loads may end.
        loading: Set when a load has begun.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.problems: dict[tuple[str, str], Exception] = {}
        self.is_away = False
        self.engines: dict[tuple[str, str], ShelfEngine] = {}
        self.made: list[ShelfEngine] = []
        self.gate = threading.Event()
        self.loading = threading.Event()
        self.gate.set()
        self._manifest = manifest
        self._found: dict[tuple[str, str], FoundModel] = {}

    def put(self, name: str, *versions: str, **changes: Any) -> None:
        for version in versions:
            graph = GraphInfo("model.onnx", version.rjust(64, "0"), (32, 64))
            manifest = replace(self._manifest, name=name, version=version, graphs=(graph,), **changes)
            self._found[name, version] = FoundModel(name, version, manifest=manifest)

    def put_unreadable(self, folder: str, *directories: Path) -> None:
        """Put a folder whose manifest cannot be read; it has no version."""
        problem = f"{folder}/manifest.json cannot be read"
        self._found[folder, ""] = FoundModel(folder, "", directories, problem=problem)

    def move(self, name: str, version: str, *directories: Path) -> None:
        """Let a version be found in other folders."""
        self._found[name, version] = replace(self._found[name, version], directories=directories)

    def take(self, name: str, *versions: str) -> None:
        for version in versions:
            del self._found[name, version]

    def find(self) -> list[FoundModel]:
        if self.is_away or not self._found:
            raise ManifestError("the shelf is empty")
        return list(self._found.values())

    def load(self, found: FoundModel) -> LoadedModel:
        self.loading.set()
        assert self.gate.wait(HANG_S)
        problem = self.problems.get((found.name, found.version))
        if problem is not None:
            raise problem
        assert found.manifest is not None
        engine = ShelfEngine(found.manifest)
        self.engines[found.name, found.version] = engine
        self.made.append(engine)
        return LoadedModel(found.manifest, engine, {1: 0.01})

    def spoil(self, name: str, version: str, problem: Exception | None = None) -> None:
        """Let a version fail."""
        self.put(name, version)
        self.problems[name, version] = problem or EngineError(f"{name} {version} is spoilt")

    def shut(self) -> None:
        """Let loads wait."""
        self.gate.clear()
        self.loading.clear()


async def rescan(api: Api) -> str:
    """Follow what has changed on the shelf; gives what came of it."""
    models = api.runtime.models
    assert isinstance(models, Repository)
    return await models.rescan()


async def until_loaded(api: Api) -> None:
    """Wait for all models of the start, those that cannot be loaded included."""
    while await _are_to_load(api):  # noqa: ASYNC110  the index is what tells
        await asyncio.sleep(0)


async def _are_to_load(api: Api) -> bool:
    index = await api.runtime.models.index()
    return any(entry.state == "LOADING" or entry.reason == "not loaded yet" for entry in index)


class Shelving(Protocol):
    """Serves what is on the shelf, with ``KEY`` as API key; ``warm=False`` does not wait for the models."""

    def __call__(self, *, warm: bool = True, **settings: Any) -> AbstractAsyncContextManager[Api]: ...
