"""The tests that fit the GPU that is here, and the bundled checkpoint as a model directory, fp32 and fp16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_export.__main__ import main
from service.engines.base import EngineError
from service.engines.tensorrt import cuda
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.engine_store import STATE_VARIABLE
from tests.gpu.fitting import Gpus, misfit

FOLDER = Path(__file__).parent
TIMEOUT_S = 3600  # TensorRT tries kernels for minutes per graph, and fixtures count


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give engine builds their time, and leave out what this GPU cannot run; a skip would count as a failure."""
    gpus = _gpus()
    left_out = []
    for item in [item for item in items if FOLDER in item.path.parents]:
        if item.get_closest_marker("gpu") is None:
            continue
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))
        if gpus is not None and misfit(gpus, *item.iter_markers("gpu")) is not None:
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _gpus() -> Gpus | None:
    """The GPUs that CUDA shows; None without any, where every test skips with its reason."""
    try:
        count = int(cuda.call("cudaGetDeviceCount"))
        properties = cuda.call("cudaGetDeviceProperties", 0) if count else None
    except EngineError:
        return None
    return Gpus(count, f"{properties.major}.{properties.minor}") if properties is not None else None


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Model directory with golden inputs; what builds engines in it signs them with a key of its own."""
    directory = tmp_path_factory.mktemp("models") / "ecenet-lite0-camvid"
    checkpoint = bundled_model_dir() / "checkpoint.pt"
    options = ["--precision", "fp32", "--precision", "fp16"]
    assert main(["onnx", str(checkpoint), "-o", str(directory), *options]) == 0
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STATE_VARIABLE, str(tmp_path_factory.mktemp("state")))
        yield directory
