"""An engine file, and the stand-ins for CUDA and TensorRT that run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engines.tensorrt import cuda
from service.engines.tensorrt import engine as tensorrt_engine
from service.engines.tensorrt import log as tensorrt_log
from service.model_directory.engine_store import STATE_VARIABLE, EngineInfo, EngineKey, write_engine
from service.model_directory.machine import EngineRuntime, Machine
from service.model_directory.manifest import GraphInfo, Manifest
from tests.support.fake_tensorrt import GRAPH, PLAN, Bench, Images, Infer, Strict

BOTH: list[EngineRuntime] = ["tensorrt", "tensorrt-rtx"]


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(3).integers(0, 256, (19, 32, 64, 3), np.uint8)


@pytest.fixture
def make_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brightness_logits: Infer
) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))

    def make(kind: EngineRuntime = "tensorrt", infer: Infer = brightness_logits) -> Bench:
        key = EngineKey(GRAPH.sha256, Machine(kind, "1"), (1, 4, 8))
        info = EngineInfo(key, "", GRAPH.input_size, "fp16", "logits", 4, 3, 3, 3, time.time())
        bench = Bench(kind, write_engine(tmp_path / "engines", PLAN, info), infer)
        monkeypatch.setattr(cuda, "cuda_runtime", lambda: bench.cuda)
        monkeypatch.setattr(tensorrt_engine, "runtime_module", lambda _: bench.trt)
        monkeypatch.setattr(tensorrt_log, "runtime_module", lambda _: bench.trt)
        tensorrt_log.tensorrt_logger.cache_clear()
        return bench

    yield make
    tensorrt_log.tensorrt_logger.cache_clear()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture(params=BOTH)
def either(make_bench: Callable[..., Bench], request: pytest.FixtureRequest) -> Bench:
    """A bench of each runtime in turn."""
    return make_bench(request.param)


@pytest.fixture
def strict_fake() -> Callable[..., Any]:
    """Makes an instance of a class of TensorRT that refuses what the class has not."""
    return Strict


@pytest.fixture
def with_fp16(manifest: Manifest) -> Manifest:
    return replace(manifest, graphs=(*manifest.graphs, GraphInfo("half.onnx", "f" * 64, (32, 64), precision="fp16")))
