"""ONNX Runtime on a CPU: small batches, and the command that installs it where it is missing."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import pytest

from service.engines.base import EngineError
from service.engines.create import create_engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName
from service.model_directory.manifest import Manifest, read_manifest


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
    with pytest.raises(EngineError, match=r"pip install '\.\[cpu\]'"):
        load(tiny_model_dir, read_manifest(tiny_model_dir))


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime", "onnxruntime-cuda"])
def test_no_onnxruntime_is_an_error_with_the_way_out(
    wanted: EngineName, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "openvino"):  # with the other, auto would serve
        monkeypatch.setitem(sys.modules, package, None)  # what an import of it then raises
    with pytest.raises(EngineError, match=r"onnxruntime is not installed: pip install '\.\[cpu\]'"):
        create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine=wanted))
