"""ONNX Runtime on a GPU: it is CUDA that runs, in float32 and by heuristic, or an error; batches are padded."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.engines import onnxruntime_cuda
from service.engines.base import DeviceTimed, DirectEngine, EngineError, warm_up
from service.engines.create import create_engine
from service.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, heavy_operators_elsewhere, nodes_by_provider
from service.engines.options import EngineOptions
from service.model_directory.manifest import GRAPH_NAME, read_manifest
from tests.support.brightness_model import Infer

Images = NDArray[np.uint8]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(3).integers(0, 256, (19, 32, 64, 3), np.uint8)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the runs of sessions, which run on the CPU with buffers there: the binding is the real one."""
    sizes: list[int] = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
            super().run_with_iobinding(binding, run_options)
            sizes.append(binding.get_outputs()[0].shape()[0])

    def load(graph: Path, num_threads: int) -> Session:
        return Session(graph, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime_cuda, "_DEVICE", "cpu")
    monkeypatch.setattr(onnxruntime_cuda, "load_session", load)
    return sizes


@pytest.fixture
def engine(tiny_model_dir: Path, batches: list[int]) -> Iterator[OnnxRuntimeCudaEngine]:
    manifest = read_manifest(tiny_model_dir)
    engine = OnnxRuntimeCudaEngine(tiny_model_dir, manifest, manifest.graph, num_threads=1)
    yield engine
    engine.close()


def test_batches_are_padded_to_prepared_sizes_and_all_of_them_are_warmed_up(
    engine: OnnxRuntimeCudaEngine, images: Images, batches: list[int], brightness_logits: Infer
) -> None:
    warm_up(engine)
    assert batches == [1, 2, 4, 8] == list(engine.warm_up_sizes)
    assert engine.max_batch_size == 8
    batches.clear()
    for size in (3, 1, 8, 2, 5, 19):
        np.testing.assert_allclose(engine.infer(images[:size]), brightness_logits(images[:size]), atol=1e-4)
    assert batches == [4, 1, 8, 2, 8, 8, 8, 4]


def test_rows_are_a_copy_that_the_next_batch_leaves_alone(
    engine: OnnxRuntimeCudaEngine, images: Images, brightness_logits: Infer
) -> None:
    first = engine.infer(images[:2])
    engine.infer(images[2:4])
    np.testing.assert_allclose(first, brightness_logits(images[:2]), atol=1e-4)


def test_batches_at_once_keep_their_images_and_rows(
    engine: OnnxRuntimeCudaEngine, images: Images, brightness_logits: Infer
) -> None:
    assert isinstance(engine, DirectEngine)

    def run(start: int) -> NDArray[np.float32]:
        outputs = np.full((1 + start % 9, 3, 8, 16), np.nan, np.float32)
        engine.infer_into(list(images[start : start + len(outputs)]), list(outputs))
        return outputs

    with ThreadPoolExecutor(3) as threads:
        for start, outputs in enumerate(threads.map(run, range(11))):
            np.testing.assert_allclose(outputs, brightness_logits(images[start : start + len(outputs)]), atol=1e-4)


def test_network_alone_is_timed_without_copies(engine: OnnxRuntimeCudaEngine, batches: list[int]) -> None:
    assert isinstance(engine, DeviceTimed)
    times = engine.device_milliseconds(4, 3)
    assert batches == [4, 4, 4]
    assert all(0 < milliseconds < 1e4 for milliseconds in times)


def test_other_images_and_a_closed_engine_are_refused(engine: OnnxRuntimeCudaEngine, images: Images) -> None:
    wrong: Any
    for wrong in (images[:0], images[:, :16], images.astype(np.float32)):
        with pytest.raises(EngineError, match=r"expected uint8 \(B, 32, 64, 3\) with B >= 1"):
            engine.infer(wrong)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="the onnxruntime-cuda engine is closed"):
        engine.infer(images)


def test_cuda_where_there_is_none_is_an_error_and_no_run_on_the_cpu(tiny_model_dir: Path) -> None:
    with pytest.raises(
        EngineError, match=r"--engine onnxruntime-cuda cannot be used: onnxruntime .* was built without CUDA"
    ):
        create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine="onnxruntime-cuda"))


def load(directory: Path) -> OnnxRuntimeCudaEngine:
    manifest = read_manifest(directory)
    return OnnxRuntimeCudaEngine(directory, manifest, manifest.graph, num_threads=1)


def test_cuda_that_does_not_start_is_an_error_with_what_is_missing_and_how_to_get_it(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with onnxruntime-gpu on a machine without a GPU: CUDA is listed, and the session falls back without a word."""

    def preload_dlls() -> None:
        sys.stdout.write("Failed to load libcudnn.so.9: cannot open shared object file\nPlease follow the page\n")

    monkeypatch.setattr(onnxruntime_cuda, "cuda_obstacle", lambda: None)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(EngineError, match="could not start CUDA and would run on the CPU") as caught:
            load(tiny_model_dir)
    assert "(Failed to load libcudnn.so.9: cannot open shared object file)" in str(caught.value)
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(caught.value)
    assert capsys.readouterr().out == ""


def test_the_session_has_float32_and_a_heuristic_search_and_finds_the_libraries_of_pip(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA multiplies in TF32 by default, whose errors are beyond the bounds of a float32 graph.

    cuDNN searches exhaustively by default: for 98 convolutions longer than a request may take.
    """
    calls: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        calls.append("session")
        raise RuntimeError("no GPU")

    session = create_autospec(onnxruntime.InferenceSession, side_effect=refuse)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append("preload"))
    monkeypatch.setattr(onnxruntime_cuda, "cuda_obstacle", lambda: None)
    with pytest.raises(EngineError, match=r"onnxruntime cannot load .*: no GPU"):
        load(tiny_model_dir)
    assert calls == ["preload", "session"]
    options = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    assert session.call_args.kwargs["providers"] == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def test_heavy_operators_without_a_kernel_of_the_gpu_are_counted() -> None:
    nodes = [("CUDA", "Conv"), ("CPU", "Shape"), ("CPU", "Attention"), ("CPU", "Attention"), ("CPU", "Conv")]
    assert heavy_operators_elsewhere(nodes, "CUDA") == ["2 Attention", "1 Conv"]
    assert heavy_operators_elsewhere([("CPU", "Concat"), ("CUDA", "MatMul")], "CUDA") == []


def test_the_provider_of_every_node_can_be_asked_for(tiny_model_dir: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(tiny_model_dir / GRAPH_NAME, options, providers=["CPUExecutionProvider"])
    nodes = nodes_by_provider(session)
    assert ("CPUExecutionProvider", "AveragePool") in nodes
