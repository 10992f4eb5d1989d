"""Engines are timed in the batches they serve; the fastest wins where it saves a tenth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import Rows
from service.engines.trial import Candidate, Timing, Trial, best_trial, quickest, time_engine
from service.model_directory.manifest import GraphInfo

CANDIDATES = [Candidate("onnxruntime", "fp32"), Candidate("onnxruntime", "int8"), Candidate("openvino", "fp32")]


class Batches:
    """An engine that counts its runs by the size of their batch."""

    name = "onnxruntime"
    num_classes = 3
    graph = GraphInfo("model.onnx", "0" * 64, (4, 4))

    def __init__(self, num_streams: int, *warm_up_sizes: int) -> None:
        self.num_streams, self.warm_up_sizes = num_streams, warm_up_sizes
        self.max_batch_size = warm_up_sizes[-1]
        self.runs: dict[int, int] = {}

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        self.runs[len(images)] = self.runs.get(len(images), 0) + 1
        return np.zeros((len(images), 3, 1, 1), np.float32)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("streams", "sizes"), [(1, (1,)), (1, (1, 2, 8)), (3, (1, 3))])
def test_an_engine_is_timed_in_the_batches_that_it_serves(streams: int, sizes: tuple[int, ...]) -> None:
    engine = Batches(streams, *sizes)
    timing = time_engine(engine, budget_s=0)
    assert engine.runs == dict.fromkeys(sizes, 1)
    assert timing.num_streams == streams
    assert min(timing.alone, timing.per_image) > 0


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([Timing(5, 4, 1), Timing(9, 3, 1)], Timing(5, 3, 1)),
        ([Timing(5, 7, 1)], Timing(5, 5, 1)),
        ([Timing(9, 8, 2), Timing(8, 6, 2)], Timing(8, 6, 2)),
        ([Timing(100, 96, 2)], Timing(100, 100, 1)),
        ([Timing(100, 94, 2)], Timing(100, 94, 2)),
    ],
    ids=["least", "batch of no use", "streams", "streams that save too little", "streams that save enough"],
)
def test_the_quickest_of_all_rounds_counts(rounds: list[Timing], expected: Timing) -> None:
    assert quickest(rounds) == expected


@pytest.mark.parametrize(
    ("products", "expected"),
    [
        ([100, 91], 0),
        ([100, 89], 1),
        ([100, 91, 83], 1),
        ([100, 50, 49], 1),
        ([None, 60], 1),
        ([40, None, 39], 0),
    ],
    ids=["near", "far", "nearest that is near", "three", "first fails", "second fails"],
)
def test_a_later_candidate_has_to_save_a_tenth(products: list[float | None], expected: int) -> None:
    trials = [
        Trial(candidate, None, "lost") if product is None else Trial(candidate, Timing(product / 10, 10.0))
        for candidate, product in zip(CANDIDATES, products, strict=False)
    ]
    assert best_trial(trials)[0] == CANDIDATES[expected]


def test_small_differences_from_start_to_start_do_not_change_the_choice() -> None:
    rng = np.random.default_rng(0)
    chosen = set()
    for _ in range(200):
        times = np.array([10.0, 9.9, 9.95]) * rng.uniform(1.0, 1.04, 3)
        trials = [Trial(candidate, Timing(t, t)) for candidate, t in zip(CANDIDATES, times.tolist(), strict=True)]
        chosen.add(best_trial(trials)[0])
    assert chosen == {CANDIDATES[0]}
