"""Several runs at once: who gets all threads, who a share, and equal rows from both."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import EngineError
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.runtimes import RuntimeName
from service.engines.streams import Streams, concurrent_runs, threads_per_stream
from service.model_directory.manifest import read_manifest
from tests.support.brightness_model import Infer
from tests.support.limits import HANG_S


def test_a_run_alone_gets_all_threads_and_those_beside_it_a_share() -> None:
    streams = Streams("alone", ["first", "second"])
    with streams.runner() as one:
        with streams.runner() as two:
            assert (one, two) == ("alone", "second")
        with streams.runner() as again:
            assert again == "second"
    with streams.runner() as later:
        assert later == "alone"


def test_under_load_no_run_gets_all_threads() -> None:
    streams = Streams("alone", ["first", "second"])
    earlier = ExitStack()
    earlier.enter_context(streams.runner())
    seen = []
    for _ in range(4):  # a new run starts before the earlier one has ended
        later = ExitStack()
        seen.append(later.enter_context(streams.runner()))
        earlier.close()
        earlier = later
    earlier.close()
    assert set(seen) == {"first", "second"}


def test_runs_beyond_the_streams_wait() -> None:
    streams = Streams("alone", [])
    entered = threading.Event()

    def run() -> None:
        with streams.runner():
            entered.set()

    with streams.runner():
        thread = threading.Thread(target=run)
        thread.start()
        assert not entered.wait(0.02)
    thread.join(HANG_S)
    assert entered.is_set()


def test_a_run_that_fails_gives_its_runner_back() -> None:
    streams = Streams("alone", [])
    with pytest.raises(ValueError, match="lost"), streams.runner():
        raise ValueError("lost")
    with streams.runner() as runner:
        assert runner == "alone"


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.mean((1, 2, 3), dtype=np.float32)


def test_a_batch_is_shared_out_over_streams_that_run_at_once() -> None:
    streams, together, seen = Streams("alone", ["first", "second"]), threading.Barrier(2, timeout=HANG_S), []

    def run(runner: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        together.wait()
        seen.append((runner, len(images)))
        return brightness(images)

    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 3), np.uint8)
    np.testing.assert_array_equal(streams.infer(images, run), brightness(images))
    assert sorted(size for _, size in seen) == [2, 3]
    assert {runner for runner, _ in seen} == {"first", "second"}


@pytest.mark.parametrize("runners", [[], ["first", "second"]])
def test_an_image_that_is_alone_gets_all_threads(runners: list[str]) -> None:
    def run(runner: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert runner == "alone"
        return brightness(images)

    images = np.full((1, 2, 2, 3), 7, np.uint8)
    assert Streams("alone", runners).infer(images, run) == [7]


def test_a_part_that_fails_fails_its_batch_and_the_streams_go_on() -> None:
    def run(_: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if images.any():
            raise ValueError("lost")
        return brightness(images)

    streams = Streams("alone", ["first", "second"])
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[1] = 1
    with pytest.raises(ValueError, match="lost"):
        streams.infer(images, run)
    for _ in range(3):
        assert streams.infer(images[:1].repeat(2, 0), run).tolist() == [0, 0]


def test_threads_are_shared_out_whole() -> None:
    assert [threads_per_stream(threads, streams) for threads, streams in ((1, 1), (5, 2), (8, 8))] == [1, 2, 1]
    with pytest.raises(EngineError, match="3 streams do not fit 2 CPU threads, expected 1 to 2"):
        threads_per_stream(2, 3)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("num_threads", [2, 4])
def test_runs_at_once_give_the_rows_of_single_ones(
    name: RuntimeName, num_threads: int, tiny_model_dir: Path, brightness_logits: Infer
) -> None:
    options = EngineOptions(engine=name, num_threads=num_threads, num_streams=2)
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), options)
    assert (concurrent_runs(engine), engine.max_batch_size, engine.warm_up_sizes) == (2, 2, [1, 2])
    batches = np.random.default_rng(3).integers(0, 256, (24, 1, 32, 64, 3), np.uint8)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(engine.infer, batches))
    for batch, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, brightness_logits(batch), rtol=1e-5, atol=1e-2)
    whole = np.concatenate(batches[:5])
    np.testing.assert_allclose(engine.infer(whole), brightness_logits(whole), rtol=1e-5, atol=1e-2)
    engine.close()
    with pytest.raises(EngineError, match=f"the {name} engine is closed"):
        engine.infer(batches[0])


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_runs_one_batch_at_a_time_unless_told_otherwise(name: RuntimeName, tiny_model_dir: Path) -> None:
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine=name, num_threads=2))
    assert concurrent_runs(engine) == 1
    assert concurrent_runs(object()) == 1  # type: ignore[arg-type]  # engines need not know of streams
