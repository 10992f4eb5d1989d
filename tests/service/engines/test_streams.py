"""Several runs at once: who gets all threads, who a share, and equal rows from both."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

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
    assert concurrent_runs(engine) == 2
    batches = np.random.default_rng(3).integers(0, 256, (24, 1, 32, 64, 3), np.uint8)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(engine.infer, batches))
    for batch, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, brightness_logits(batch), rtol=1e-5, atol=1e-2)
    engine.close()
    with pytest.raises(EngineError, match=f"the {name} engine is closed"):
        engine.infer(batches[0])


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_engine_runs_one_batch_at_a_time_unless_told_otherwise(name: RuntimeName, tiny_model_dir: Path) -> None:
    engine = create_engine(tiny_model_dir, read_manifest(tiny_model_dir), EngineOptions(engine=name, num_threads=2))
    assert concurrent_runs(engine) == 1
    assert concurrent_runs(object()) == 1  # type: ignore[arg-type]  # engines need not know of streams
