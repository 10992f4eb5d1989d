"""A state folder of its own, and the tiny model opened with times that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.engines.base import Engine
from service.engines.measured_choice import open_engine
from service.model_directory.engine_store import STATE_VARIABLE
from service.model_directory.manifest import read_manifest
from tests.support.stopwatch import OPTIONS, Stopwatch


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def open_as(tiny_model_dir: Path, state: Path) -> Callable[[Stopwatch], Engine]:
    return lambda stopwatch: open_engine(tiny_model_dir, read_manifest(tiny_model_dir), OPTIONS, measure=stopwatch)
