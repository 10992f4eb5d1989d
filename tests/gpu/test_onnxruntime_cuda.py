"""ONNX Runtime on the GPU: as PyTorch, in both precisions, at every batch size."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.runtimes import PrecisionName
from service.engines.selfcheck import self_check
from service.model_directory.golden import read_golden
from service.model_directory.manifest import read_manifest


@pytest.mark.gpu("onnxruntime-cuda")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_batch_size_agrees_with_pytorch(model_dir: Path, precision: PrecisionName) -> None:
    manifest = read_manifest(model_dir)
    engine = create_engine(model_dir, manifest, EngineOptions(engine="onnxruntime-cuda", precision=precision))
    golden = read_golden(model_dir, manifest, engine.graph.input_size)
    checked = self_check(engine, golden, range(1, 9))
    engine.close()
    assert engine.graph.precision == precision
    assert [batch.batch_size for batch in checked] == list(range(1, 9))
