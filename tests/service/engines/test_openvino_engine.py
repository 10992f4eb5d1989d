"""OpenVINO: what the bundled model gives in it; bf16 only where it is asked for, with bounds of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.engines.base import EngineError, warm_up
from service.engines.create import create_engine, obstacles
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.openvino_engine import OpenVinoEngine, openvino_obstacle
from service.engines.options import EngineOptions
from service.engines.selfcheck import SelfCheckError, self_check
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.golden import read_golden
from service.model_directory.manifest import (
    DEFAULT_BOUNDS,
    GRAPH_NAME,
    Bounds,
    ClassInfo,
    GraphInfo,
    Manifest,
    in_bf16,
    read_manifest,
)
from tests.support.limits import HANG_S

Images = NDArray[np.uint8]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(7).integers(0, 256, (5, 32, 64, 3), np.uint8)


def load(directory: Path, manifest: Manifest, **options: Any) -> OpenVinoEngine:
    return OpenVinoEngine(directory, manifest, manifest.graph, num_threads=1, max_batch_size=4, **options)


@pytest.fixture
def engine(tiny_model_dir: Path) -> Iterator[OpenVinoEngine]:
    engine = load(tiny_model_dir, read_manifest(tiny_model_dir))
    yield engine
    engine.close()


def test_batches_are_of_one_image_unless_told_otherwise(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    engine = OpenVinoEngine(tiny_model_dir, manifest, manifest.graph, num_threads=1)
    assert (engine.max_batch_size, engine.warm_up_sizes) == (1, [1])
    larger = load(tiny_model_dir, manifest)
    assert larger.warm_up_sizes == [1, 4]
    assert list(warm_up(larger)) == [1, 4]


def test_bundled_model_agrees_with_pytorch_and_onnx_runtime() -> None:
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    golden = read_golden(directory, manifest, manifest.graph.input_size)
    engine = OpenVinoEngine(directory, manifest, manifest.graph, num_threads=2, max_batch_size=2)
    other = OnnxRuntimeEngine(directory, manifest, manifest.graph, num_threads=2)
    for batch in self_check(engine, golden, (1, 2)):
        assert batch.agreement.equal_labels == 1
        assert batch.agreement.max_logit_error is not None
        assert batch.agreement.max_logit_error < 1e-3
    found, expected = engine.infer(golden.images[:1]), other.infer(golden.images[:1])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def write_attention(directory: Path) -> Manifest:
    """A graph of uint8 images (B, 8, 12, 3) whose logits (B, 3, 2, 3) are an ``Attention`` node's, opset 23."""
    constants = {"one_head": [0, 2, 3, 64], "logits_shape": [0, 2, 3, 3], "channels": [3]}
    weights = np.random.default_rng(3).normal(0, 0.1, (3, 64, 16)).astype(np.float32)
    tensors = [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    tensors += [onnx.numpy_helper.from_array(weight, name) for weight, name in zip(weights, "qkv", strict=True)]
    tensors += [
        onnx.numpy_helper.from_array(np.array([0, 6, 48], np.int64), "cells"),
        onnx.numpy_helper.from_array(np.ones((48, 64), np.float32) / 255, "scale"),
        onnx.numpy_helper.from_array(np.linspace(-1, 1, 48, dtype=np.float32).reshape(16, 3), "classes"),
        onnx.numpy_helper.from_array(np.array([0, 2, 3, 3], np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "cells"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "scale"], ["features"]),
        *(helper.make_node("MatMul", ["features", name], [f"{name}_rows"]) for name in "qkv"),
        helper.make_node(
            "Attention", ["q_rows", "k_rows", "v_rows"], ["attended"], name="attention", q_num_heads=2, kv_num_heads=2
        ),
        helper.make_node("MatMul", ["attended", "classes"], ["cells_logits"]),
        helper.make_node("Reshape", ["cells_logits", "shape"], ["maps"]),
        helper.make_node("Transpose", ["maps"], ["logits"], perm=[0, 3, 1, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 8, 12, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3, 2, 3])],
        [tensor for tensor in tensors if tensor.name not in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, directory / GRAPH_NAME)
    classes = tuple(ClassInfo(index, str(index), (0, 0, 0)) for index in range(3))
    return Manifest("attention", "1", "none", classes, (GraphInfo(GRAPH_NAME, "0" * 64, (8, 12)),))


def test_an_attention_node_of_opset_23_runs(tmp_path: Path) -> None:
    manifest = write_attention(tmp_path)
    images = np.random.default_rng(5).integers(0, 256, (3, 8, 12, 3), np.uint8)
    found = load(tmp_path, manifest).infer(images)
    expected = OnnxRuntimeEngine(tmp_path, manifest, manifest.graph, num_threads=1, max_batch_size=4).infer(images)
    assert float(np.ptp(expected)) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_labels_of_a_graph_are_given_as_they_are(tmp_path: Path) -> None:
    axis = helper.make_node("ArgMax", ["floats"], ["indices"], axis=3, keepdims=0)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        axis,
        helper.make_node("Cast", ["indices"], ["labels"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "labels",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 8, 12, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["B", 8, 12])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / GRAPH_NAME
    )
    classes = tuple(ClassInfo(index, str(index), (0, 0, 0)) for index in range(3))
    info = GraphInfo(GRAPH_NAME, "0" * 64, (8, 12), output="labels", output_stride=1)
    images = np.random.default_rng(5).integers(0, 256, (2, 8, 12, 3), np.uint8)
    rows = load(tmp_path, Manifest("labels", "1", "none", classes, (info,))).infer(images)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(rows, images.argmax(3))


@pytest.mark.parametrize("shape", [(0, 32, 64, 3), (1, 64, 32, 3), (32, 64, 3)])
def test_images_of_another_shape_are_refused(engine: OpenVinoEngine, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"images are uint8 .*expected uint8 \(B, 32, 64, 3\) with B >= 1"):
        engine.infer(np.zeros(shape, np.uint8))


def test_images_of_another_type_are_refused(engine: OpenVinoEngine) -> None:
    """OpenVINO itself would convert them without a word."""
    with pytest.raises(EngineError, match="images are float32"):
        engine.infer(np.zeros((1, 32, 64, 3), np.float32))


def test_closed_engine_says_so(engine: OpenVinoEngine, images: Images) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the openvino engine is closed"):
        engine.infer(images)


def test_a_run_under_way_outlives_the_close(
    tiny_model_dir: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the service stops while the engine is busy."""
    from openvino import CompiledModel  # noqa: PLC0415

    manifest = read_manifest(tiny_model_dir)
    expected = load(tiny_model_dir, manifest).infer(images[:2])
    inside, closed = threading.Event(), threading.Event()
    create = CompiledModel.create_infer_request

    class Slow:
        def __init__(self, request: Any) -> None:
            self.request = request

        def infer(self, *arguments: Any, **options: Any) -> Any:
            inside.set()
            assert closed.wait(HANG_S)
            return self.request.infer(*arguments, **options)

    monkeypatch.setattr(CompiledModel, "create_infer_request", lambda compiled: Slow(create(compiled)))
    engine = load(tiny_model_dir, manifest)
    rows: list[Any] = []
    runner = threading.Thread(target=lambda: rows.append(engine.infer(images[:2])))
    runner.start()
    assert inside.wait(HANG_S)
    engine.close()
    closed.set()
    runner.join(HANG_S)
    np.testing.assert_array_equal(rows[0], expected)


def test_threads_are_those_of_the_settings_and_bound_to_no_cpu(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino  # noqa: PLC0415

    options: list[dict[str, Any]] = []
    real = openvino.Core.compile_model

    def compile_model(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        options.append(config)
        return real(core, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine="openvino", num_threads=1))
    (config,) = options
    assert config["INFERENCE_NUM_THREADS"] == 1
    assert (config["NUM_STREAMS"], config["ENABLE_CPU_PINNING"], config["INFERENCE_PRECISION_HINT"]) == (
        1,
        False,
        "f32",
    )


def test_the_package_tells_nobody_of_its_import_and_leaves_no_files(tmp_path: Path) -> None:
    code = """if True:
        import sys
        calls = []
        sys.addaudithook(lambda event, _: calls.append(event) if event.startswith("socket.") else None)
        import service.engines.openvino_engine as engine
        assert "openvino" not in sys.modules, "the module loads it at import"
        assert engine.openvino_obstacle("fp32") is None
        assert "openvino" in sys.modules
        assert sys.modules["openvino_telemetry"] is None
        print(calls)
    """
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, check=True)
    assert printed.stdout.strip() == b"[]"
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_told_with_the_command_to_install_it(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    manifest = read_manifest(tiny_model_dir)
    text = r"openvino is not installed: pip install '\.\[cpu\]'"
    with pytest.raises(EngineError, match=text):
        load(tiny_model_dir, manifest)
    with pytest.raises(EngineError, match=f"--engine openvino cannot be used: {text}"):
        create_engine(tiny_model_dir, manifest, EngineOptions(engine="openvino"))


def test_bf16_is_for_openvino_alone(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    with pytest.raises(
        EngineError, match="--engine onnxruntime cannot be used: it does not compute in bf16, only --engine openvino"
    ):
        create_engine(tiny_model_dir, manifest, EngineOptions(engine="onnxruntime", precision="bf16"))
    found = obstacles(tiny_model_dir, manifest, EngineOptions(precision="bf16"))
    assert {name for name, reason in found.items() if reason is None} <= {"openvino"}


def test_processor_without_bf16_is_told_so(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino  # noqa: PLC0415

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(
        EngineError, match=r"this processor does not compute in bf16 \(FP32, INT8 only\); choose --precision fp32"
    ):
        create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine="openvino", precision="bf16"))


def test_arithmetic_that_openvino_would_replace_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO takes float32 without a word on a processor that lacks bf16."""
    import openvino  # noqa: PLC0415

    real = openvino.Core.compile_model

    def without_bf16(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        return real(core, model, device, {**config, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", without_bf16)
    manifest = read_manifest(tiny_model_dir)
    with pytest.raises(EngineError, match=r"does not compute in bf16 \(f32 only\)"):
        OpenVinoEngine(tiny_model_dir, manifest, in_bf16(manifest.graph), num_threads=1)


def test_auto_never_takes_bf16(tiny_model_dir: Path) -> None:
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(num_threads=1))
    assert (engine.graph.precision, engine.graph.bounds) == ("fp32", DEFAULT_BOUNDS["fp32"])
    engine.close()


def test_bundled_model_in_bf16_passes_the_bounds_of_bf16_and_not_those_of_float32() -> None:
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    golden = read_golden(directory, manifest, manifest.graph.input_size)
    settings = EngineOptions(precision="bf16", num_threads=2, max_batch_size=2)
    if openvino_obstacle("bf16") is not None:  # of this processor
        with pytest.raises(EngineError, match="this processor does not compute in bf16"):
            create_engine(directory, manifest, settings)
        return
    engine = create_engine(directory, manifest, settings)
    assert (engine.name, engine.graph.precision, engine.graph.file) == ("openvino", "bf16", GRAPH_NAME)
    assert engine.graph.bounds == DEFAULT_BOUNDS["bf16"] == Bounds(0.98)
    for batch in self_check(engine, golden, (1, 2)):
        assert 0.99 < batch.agreement.equal_labels < 1
    exact = OpenVinoEngine(directory, manifest, in_bf16(manifest.graph), num_threads=2)
    exact.graph = manifest.graph
    with pytest.raises(SelfCheckError, match="largest logit error"):
        self_check(exact, golden, (1,))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Exception from src/a.cpp:84:\nCheck 'x == y' failed at src/b.cpp:1:\nNo such layer.\n\n",
            "No such layer.",
        ),
        ("Exception from src/a.cpp:84:", "Exception from src/a.cpp:84:"),
    ],
)
def test_the_reason_is_what_openvino_says_without_places_in_its_sources(
    said: str, reason: str, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino  # noqa: PLC0415

    def refuse(*_arguments: Any) -> Any:
        raise RuntimeError(said)

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    with pytest.raises(EngineError) as caught:
        load(tiny_model_dir, read_manifest(tiny_model_dir))
    assert str(caught.value) == f"openvino cannot compile model.onnx: {reason}"


def test_a_signal_after_another_thread_has_dropped_the_last_engine_harms_nothing(tiny_model_dir: Path) -> None:
    program = """
import os, signal, sys, threading
from pathlib import Path
from service.model_directory.manifest import read_manifest
from service.engines.openvino_engine import OpenVinoEngine

signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
directory = Path(sys.argv[1])
manifest = read_manifest(directory)
engines = [OpenVinoEngine(directory, manifest, manifest.graph, num_threads=1)]
dropping = threading.Thread(target=engines.clear)
dropping.start()
dropping.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-c", program, str(tiny_model_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n")
