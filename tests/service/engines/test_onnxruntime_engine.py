"""ONNX Runtime: small batches on a CPU; on a GPU it is CUDA that runs, in float32, or an error."""

from __future__ import annotations

import builtins
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from service.engines import onnxruntime_engine
from service.engines.base import EngineError
from service.engines.create import create_engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine, heavy_operators_elsewhere, nodes_by_provider
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName
from service.model_directory.manifest import GRAPH_NAME, Manifest, read_manifest


def load(directory: Path, manifest: Manifest) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(directory, manifest, manifest.graph, num_threads=1, max_batch_size=4)


def test_batches_on_a_cpu_are_small_unless_told_otherwise(tiny_model_dir: Path) -> None:
    manifest = read_manifest(tiny_model_dir)
    assert OnnxRuntimeEngine(tiny_model_dir, manifest, manifest.graph, num_threads=1).max_batch_size == 2
    assert create_engine(tiny_model_dir, manifest, EngineOptions(max_batch_size=6)).max_batch_size == 6


def test_missing_onnxruntime_is_told_with_the_command_to_install_it(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EngineError, match=r"pip install 'ecenet\[cpu\]'"):
        load(tiny_model_dir, read_manifest(tiny_model_dir))


def test_cuda_where_there_is_none_is_an_error_and_no_run_on_the_cpu(tiny_model_dir: Path) -> None:
    with pytest.raises(
        EngineError, match=r"--engine onnxruntime-cuda cannot be used: onnxruntime .* was built without CUDA"
    ):
        create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine="onnxruntime-cuda"))


def test_cuda_that_does_not_start_is_an_error_and_no_run_on_the_cpu(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with onnxruntime-gpu on a machine without a GPU: CUDA is listed, and the session falls back without a word."""
    monkeypatch.setattr(onnxruntime_engine, "cuda_obstacle", lambda: None)
    manifest = read_manifest(tiny_model_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(EngineError, match="could not start CUDA and would run on the CPU"):
            OnnxRuntimeEngine(tiny_model_dir, manifest, manifest.graph, num_threads=1, device="cuda")


def test_float32_stays_float32_on_the_gpu(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default CUDA multiplies in TF32, whose errors are beyond the bounds of a float32 graph."""
    import onnxruntime  # noqa: PLC0415

    session = create_autospec(onnxruntime.InferenceSession, side_effect=RuntimeError("no GPU"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime_engine, "cuda_obstacle", lambda: None)
    manifest = read_manifest(tiny_model_dir)
    with pytest.raises(EngineError, match=r"onnxruntime cannot load .*: no GPU"):
        OnnxRuntimeEngine(tiny_model_dir, manifest, manifest.graph, num_threads=1, device="cuda")
    providers = session.call_args.kwargs["providers"]
    assert providers == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]


def test_heavy_operators_without_a_kernel_of_the_gpu_are_counted() -> None:
    nodes = [("CUDA", "Conv"), ("CPU", "Shape"), ("CPU", "Attention"), ("CPU", "Attention"), ("CPU", "Conv")]
    assert heavy_operators_elsewhere(nodes, "CUDA") == ["2 Attention", "1 Conv"]
    assert heavy_operators_elsewhere([("CPU", "Concat"), ("CUDA", "MatMul")], "CUDA") == []


def test_the_provider_of_every_node_can_be_asked_for(tiny_model_dir: Path) -> None:
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(tiny_model_dir / GRAPH_NAME, options, providers=["CPUExecutionProvider"])
    nodes = nodes_by_provider(session)
    assert ("CPUExecutionProvider", "AveragePool") in nodes


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime", "onnxruntime-cuda"])
def test_no_onnxruntime_is_an_error_with_the_way_out(
    wanted: EngineName, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "openvino"):  # with the other, auto would serve
        monkeypatch.setitem(sys.modules, package, None)  # what an import of it then raises
    with pytest.raises(EngineError, match=r"onnxruntime is not installed: pip install 'ecenet\[cpu\]'"):
        create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine=wanted))
