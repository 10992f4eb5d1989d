"""Engines built from the bundled model, on the GPU: as PyTorch, at every batch size, plain and as CUDA graphs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_export.__main__ import main
from model_export.images import generated_images
from service.engines.base import warm_up
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.selfcheck import self_check
from service.engines.tensorrt import cuda
from service.engines.tensorrt.engine import TensorRtEngine
from service.model_directory.golden import read_golden
from service.model_directory.machine import ENGINE_RUNTIMES
from service.model_directory.manifest import DEFAULT_BOUNDS, read_manifest
from service.workers.slots import Layout, Region

# Share of equal labels of one image in two runs: kernels of other batch sizes round otherwise, in fp16. Two different
# images of the fixture share at most 54%.
MIN_EQUAL = DEFAULT_BOUNDS["fp16"].min_equal_labels


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.gpu(name)) for name in ENGINE_RUNTIMES])
def runtime(request: pytest.FixtureRequest, model_dir: Path) -> str:
    """Each runtime that is here in turn, with an engine built."""
    assert main(["tensorrt", str(model_dir), "--runtime", request.param]) == 0
    return str(request.param)


def load(model_dir: Path, runtime: Any) -> TensorRtEngine:
    engine = create_engine(model_dir, read_manifest(model_dir), EngineOptions(engine=runtime))
    assert isinstance(engine, TensorRtEngine)
    return engine


@pytest.fixture
def engine(model_dir: Path, runtime: str) -> Iterator[TensorRtEngine]:
    engine = load(model_dir, runtime)
    yield engine
    engine.close()


@pytest.fixture
def images(engine: TensorRtEngine) -> NDArray[np.uint8]:
    """Eleven images, no two alike."""
    return np.stack(generated_images(engine.graph.input_size, 11))


def check_rows(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """Row by row, as a row in the wrong place counts little in the mean of all."""
    assert found.shape == expected.shape
    shares = (found.argmax(1) == expected.argmax(1)).mean((1, 2))
    assert shares.min() >= MIN_EQUAL, shares


def test_every_batch_size_agrees_with_pytorch(model_dir: Path, engine: TensorRtEngine) -> None:
    """The first repeat runs plainly, the later ones, whose rows are compared, as graphs."""
    golden = read_golden(model_dir, read_manifest(model_dir), engine.graph.input_size)
    for repeats in (1, 3):
        checked = self_check(engine, golden, range(1, 9), repeats)
        assert [batch.batch_size for batch in checked] == list(range(1, 9))


def test_replay_gives_what_the_plain_run_gives(
    model_dir: Path,
    runtime: str,
    engine: TensorRtEngine,
    images: NDArray[np.uint8],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of other images than those of the capture, or a graph that does nothing would pass."""
    warm_up(engine)
    warm_up(engine)
    assert "without a CUDA graph" not in caplog.text
    for size in engine.warm_up_sizes:
        fresh = load(model_dir, runtime)
        plain = fresh.infer(images[:size])
        fresh.close()
        check_rows(engine.infer(images[:size]), plain)


def test_row_of_a_padded_batch_is_that_of_the_single_image(engine: TensorRtEngine, images: NDArray[np.uint8]) -> None:
    single = np.concatenate([engine.infer(image[None]) for image in images])
    for size in (*range(2, 9), 11):
        check_rows(engine.infer(images[:size]), single[:size])


def test_another_thread_may_run_the_engine(engine: TensorRtEngine, images: NDArray[np.uint8]) -> None:
    found: list[NDArray[Any]] = []
    thread = threading.Thread(target=lambda: found.extend(engine.infer(images[:2]) for _ in range(2)))
    thread.start()
    thread.join()
    for rows in found:
        check_rows(rows, engine.infer(images[:2]))
    assert len(found) == 2


def test_batches_at_once_keep_their_images_and_rows(engine: TensorRtEngine, images: NDArray[np.uint8]) -> None:
    """From slots in shared memory, some of them pinned, two batches at once, as the service runs them."""
    single = np.concatenate([engine.infer(image[None]) for image in images])
    layout = Layout.of(engine.graph, engine.num_classes, len(images))
    descriptor = Region.allocate(layout)
    region = Region(layout, descriptor)
    os.close(descriptor)
    for slot, image in enumerate(images):
        region.image(slot)[:] = image
        if slot % 2:
            engine.pin(region.image(slot))
            engine.pin(region.output(slot))

    def run(slots: range) -> None:
        engine.infer_into([region.image(slot) for slot in slots], [region.output(slot) for slot in slots])

    for _ in range(16):
        with ThreadPoolExecutor(engine.batches_at_once) as threads:
            list(threads.map(run, (range(8), range(8, 11))))
        check_rows(np.stack([region.output(slot) for slot in range(11)]), single)
        for slot in range(11):
            region.output(slot)[:] = 0


def test_closed_engines_leave_their_memory(model_dir: Path, runtime: str) -> None:
    def free_bytes() -> int:
        engine = load(model_dir, runtime)
        warm_up(engine)
        engine.close()
        return int(cuda.call("cudaMemGetInfo"))

    first = free_bytes()
    for _ in range(3):
        last = free_bytes()
    assert first - last < 16 << 20


def test_auto_takes_a_built_engine_and_says_so(model_dir: Path, runtime: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine = create_engine(model_dir, read_manifest(model_dir), EngineOptions())
    engine.close()
    assert engine.name in ENGINE_RUNTIMES
    assert ENGINE_RUNTIMES.index(engine.name) <= ENGINE_RUNTIMES.index(runtime)
    assert f"engine {engine.name} runs " in caplog.text
