"""Choice of the engine: the requested one or an error; ``auto`` tries only what this machine may load."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest

from service.engines import create
from service.engines.base import EngineError
from service.engines.create import create_engine, obstacles
from service.engines.options import EngineOptions
from service.engines.tensorrt import cuda
from service.engines.tensorrt.engine import TensorRtEngine
from service.model_directory.engine_store import ENGINE_FOLDER, STATE_VARIABLE, EngineInfo, EngineKey, write_engine
from service.model_directory.machine import Machine, MachineError
from service.model_directory.manifest import Bounds, GraphInfo, Manifest, read_manifest

HERE = Machine("tensorrt", "10.14", "L4", "8.9", "13.0")
SIZE = (32, 64)
Write = Callable[..., EngineInfo]


@pytest.fixture
def model_dir(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tiny_model_dir / "state"))
    return tiny_model_dir


@pytest.fixture
def two_graphs(model_dir: Path) -> Manifest:
    """A float32 graph, the default one, and one in fp16 with bounds of its own."""
    manifest = read_manifest(model_dir)
    fp16 = GraphInfo("model-fp16.onnx", "f" * 64, SIZE, precision="fp16", bounds=Bounds(0.97))
    return replace(manifest, graphs=(manifest.graph, fp16))


@pytest.fixture
def write(model_dir: Path) -> Write:
    """Writes an engine of a graph as ``ecenet-export tensorrt`` does."""

    def write(graph: GraphInfo, machine: Machine = HERE, folder: str = ENGINE_FOLDER) -> EngineInfo:
        key = EngineKey(graph.sha256, machine, (1, 4, 8))
        info = EngineInfo(key, "", graph.input_size, graph.precision, "logits", 4, 3, 3, 3, time.time())
        return write_engine(model_dir / folder, b"plan", info)

    return write


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A machine with TensorRT only; its engines are not loaded, but the call that would load one is checked."""

    def detect(runtime: str) -> Machine:
        if runtime != "tensorrt":
            raise MachineError(f"{runtime} is not installed")
        return HERE

    fake: MagicMock = create_autospec(TensorRtEngine)
    monkeypatch.setattr(create, "detect_machine", detect)
    monkeypatch.setattr(create, "TensorRtEngine", fake)
    return fake


def test_auto_takes_the_built_engine(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock, caplog: pytest.LogCaptureFixture
) -> None:
    info = write(two_graphs.graphs[1])
    with caplog.at_level(logging.INFO):
        engine = create_engine(model_dir, two_graphs, EngineOptions(max_batch_size=4))
    assert engine is loaded.return_value
    loaded.assert_called_once_with(info, two_graphs.graphs[1], 3, max_batch_size=4)
    assert f"engine tensorrt runs {info.path} of model-fp16.onnx (fp16)" in caplog.text


def test_an_engine_of_smaller_batches_than_asked_for_serves_with_a_warning(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock, caplog: pytest.LogCaptureFixture
) -> None:
    info = write(two_graphs.graphs[1])
    for most in (8, 9):
        create_engine(model_dir, two_graphs, EngineOptions(max_batch_size=most))
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{info.path} takes batches of up to 8, and --max-batch-size is 9; build another with ecenet-export tensorrt "
        "DIR --max-batch-size 9"
    ]


def test_auto_logs_why_it_passed_over_tensorrt(
    model_dir: Path, two_graphs: Manifest, loaded: MagicMock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        engine = create_engine(model_dir, two_graphs, EngineOptions(num_threads=1))
    assert engine.name == "onnxruntime"
    engine.close()
    loaded.assert_not_called()
    assert "not tensorrt: " in caplog.text
    assert "build one with ecenet-export tensorrt DIR" in caplog.text
    assert "not tensorrt-rtx: tensorrt-rtx is not installed" in caplog.text


def test_tensorrt_without_an_engine_is_an_error_and_never_another_runtime(
    model_dir: Path, two_graphs: Manifest, loaded: MagicMock
) -> None:
    text = r"--engine tensorrt cannot be used: .*no engine for model-fp16.onnx.*; build one with ecenet-export tensorrt"
    with pytest.raises(EngineError, match=text):
        create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt"))
    with pytest.raises(EngineError, match="--engine tensorrt-rtx cannot be used: tensorrt-rtx is not installed"):
        create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt-rtx"))


def test_engine_of_a_second_best_graph_is_taken_where_the_best_has_none(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock
) -> None:
    info = write(two_graphs.graphs[0])
    create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt"))
    loaded.assert_called_once_with(info, two_graphs.graphs[0], 3, max_batch_size=None)
    with pytest.raises(EngineError, match=r"no engine for model-fp16\.onnx"):
        create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt", precision="fp16"))


def test_graph_of_another_size_is_an_error(model_dir: Path, two_graphs: Manifest, loaded: MagicMock) -> None:
    with pytest.raises(EngineError, match="brightness has no graph of 96x96"):
        create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt", input_size=(96, 96)))
    with pytest.raises(EngineError, match="brightness has no graph of 96x96"):
        create_engine(model_dir, two_graphs, EngineOptions(input_size=(96, 96)))


def test_engines_may_lie_in_another_folder(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock
) -> None:
    info = write(two_graphs.graphs[1], folder="elsewhere")
    create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt", engine_dir=model_dir / "elsewhere"))
    assert loaded.call_args.args[0] == info


def test_engine_of_another_installation_is_loaded_only_if_it_is_named(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write(two_graphs.graphs[1])
    monkeypatch.setenv(STATE_VARIABLE, str(model_dir / "another"))
    with pytest.raises(EngineError, match=r"not built by this installation.*--engine-file"):
        create_engine(model_dir, two_graphs, EngineOptions(engine="tensorrt"))
    loaded.assert_not_called()
    create_engine(model_dir, two_graphs, EngineOptions(engine_file=info.path))
    loaded.assert_called_once_with(info, two_graphs.graphs[1], 3, max_batch_size=None)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"engine": "tensorrt-rtx"}, r"--engine is tensorrt-rtx, and --engine-file .* is for tensorrt: leave out one"),
        ({"engine": "onnxruntime"}, r"--engine is onnxruntime, and --engine-file .* is for tensorrt: leave out one"),
        ({"input_size": (96, 96)}, r"--input-size is 96x96, and .* is for 32x64: leave out one"),
        ({"precision": "fp32"}, r"--precision is fp32, and .* computes in fp16: leave out one"),
    ],
)
def test_named_engine_that_is_not_what_was_asked_for_is_refused(
    two_graphs: Manifest, write: Write, loaded: MagicMock, settings: dict[str, Any], text: str
) -> None:
    info = write(two_graphs.graphs[1])
    with pytest.raises(EngineError, match=text):
        create_engine(info.path.parent, two_graphs, EngineOptions(engine_file=info.path, **settings))
    loaded.assert_not_called()


def test_named_engine_has_to_fit_model_and_machine(
    model_dir: Path, two_graphs: Manifest, write: Write, loaded: MagicMock
) -> None:
    another = write(replace(two_graphs.graph, sha256="e" * 64))
    with pytest.raises(EngineError, match="was not built from a graph of brightness; build one with ecenet-export"):
        create_engine(model_dir, two_graphs, EngineOptions(engine_file=another.path))
    elsewhere = write(two_graphs.graph, replace(HERE, gpu_name="H100", compute_capability="9.0"))
    with pytest.raises(EngineError, match=r"cannot be used here: built on H100 \(9.0\), here is L4 \(8.9\); build one"):
        create_engine(model_dir, two_graphs, EngineOptions(engine_file=elsewhere.path))
    with pytest.raises(EngineError, match=r"absent\.engine does not exist"):
        create_engine(model_dir, two_graphs, EngineOptions(engine_file=model_dir / "absent.engine"))
    strange = write(two_graphs.graph, replace(HERE, runtime="other"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="is for 'other', expected tensorrt or tensorrt-rtx"):
        create_engine(model_dir, two_graphs, EngineOptions(engine_file=strange.path))
    loaded.assert_not_called()


def test_onnxruntime_with_cuda_needs_a_gpu_too(
    model_dir: Path, two_graphs: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``auto`` has to end with the CPU where onnxruntime-gpu is installed and there is no GPU."""
    monkeypatch.setattr(create, "cuda_obstacle", lambda: None)
    monkeypatch.setattr(cuda, "gpu_obstacle", lambda: "there is no usable NVIDIA GPU")
    with pytest.raises(EngineError, match="--engine onnxruntime-cuda cannot be used: there is no usable NVIDIA GPU"):
        create_engine(model_dir, two_graphs, EngineOptions(engine="onnxruntime-cuda"))
    assert create_engine(model_dir, two_graphs, EngineOptions(num_threads=1)).name == "onnxruntime"


def test_runtimes_that_were_not_asked_for_are_not_looked_at(
    model_dir: Path, two_graphs: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "detect_machine", lambda _: pytest.fail("TensorRT was loaded"))
    assert (
        create_engine(model_dir, two_graphs, EngineOptions(engine="onnxruntime", num_threads=1)).name == "onnxruntime"
    )


@pytest.mark.skipif(cuda.gpu_obstacle() is None, reason="there is a GPU")
def test_machine_without_a_gpu_tells_of_each_runtime_what_it_lacks(model_dir: Path, two_graphs: Manifest) -> None:
    found = obstacles(model_dir, two_graphs, EngineOptions())
    assert list(found) == ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime", "openvino"]
    assert found["onnxruntime"] is None
    for runtime in ("tensorrt", "tensorrt-rtx"):
        assert "is not installed: pip install" in str(found[runtime]) or "no usable NVIDIA GPU" in str(found[runtime])
    assert "built without CUDA" in str(found["onnxruntime-cuda"]) or "GPU" in str(found["onnxruntime-cuda"])


def test_a_start_that_builds_nothing_imports_no_builder_and_no_runtime() -> None:
    program = "import sys, service.models.source, service.processes; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "service.engines.create" in loaded
    assert loaded.isdisjoint(
        {"service.engines.tensorrt.build", "service.engines.tensorrt.compile", "onnxruntime", "openvino", "tensorrt"}
    )
