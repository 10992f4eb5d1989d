"""An engine against golden inputs: agreement, batch sizes, and every way to fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import EngineError, Images, Rows
from service.engines.selfcheck import SelfCheckError, self_check
from service.model_directory.golden import Golden, make_golden
from service.model_directory.manifest import Bounds, GraphInfo
from tests.support.brightness_model import Infer

SIZE = (32, 64)


class FakeEngine:
    name = "fake"
    num_classes = 3
    warm_up_sizes: Sequence[int] = ()

    def __init__(self, infer: Infer, max_batch_size: int = 8) -> None:
        self.graph = GraphInfo("model.onnx", "0" * 64, SIZE, bounds=Bounds(0.99, 1e-3))
        self.max_batch_size = max_batch_size
        self.batches: list[NDArray[np.uint8]] = []
        self._infer = infer

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(images)
        return self._infer(images)

    def close(self) -> None:
        pass


@pytest.fixture
def golden(brightness_logits: Infer) -> Golden:
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    return make_golden(images, brightness_logits(images), {})


def test_every_batch_size_is_run_and_compared(golden: Golden, brightness_logits: Infer) -> None:
    engine = FakeEngine(brightness_logits)
    checked = self_check(engine, golden, repeats=2)
    assert [(batch.batch_size, batch.agreement.equal_labels) for batch in checked] == [(n, 1.0) for n in (1, 2, 4, 8)]
    assert [len(images) for images in engine.batches] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert all(batch.milliseconds > 0 for batch in checked)
    neighbours_differ = [
        not np.array_equal(a, b) for a, b in zip(engine.batches[-1], engine.batches[-1][1:], strict=False)
    ]
    assert all(neighbours_differ)


def test_sizes_above_the_engines_are_left_out(golden: Golden, brightness_logits: Infer) -> None:
    assert [batch.batch_size for batch in self_check(FakeEngine(brightness_logits, 3), golden)] == [1, 2]


def test_rows_in_another_order_are_found(golden: Golden, brightness_logits: Infer) -> None:
    engine = FakeEngine(lambda images: brightness_logits(images)[::-1])
    with pytest.raises(
        SelfCheckError, match=r"fake engine at batch 2 differs from PyTorch on the golden inputs: largest"
    ):
        self_check(engine, golden)


def test_the_last_run_of_each_batch_at_once_is_compared(golden: Golden, brightness_logits: Infer) -> None:
    """An engine of two lanes uses them in turn; here the other one than that of the last run gives wrong rows."""

    class TwoLanes(FakeEngine):
        batches_at_once = 2

        def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().infer(images) + np.float32(len(self.batches) % 2)

        def infer_into(self, images: Images, outputs: Sequence[Rows]) -> None:
            raise NotImplementedError

        def pin(self, memory: Rows) -> None:
            raise NotImplementedError

    with pytest.raises(SelfCheckError, match=r"batch 1 .*largest logit error 1\.00e\+00"):
        self_check(TwoLanes(brightness_logits), golden, repeats=2)


def test_small_errors_are_found(golden: Golden, brightness_logits: Infer) -> None:
    engine = FakeEngine(lambda images: brightness_logits(images) + np.float32(0.5))
    with pytest.raises(SelfCheckError, match=r"batch 1 .*largest logit error 5\.00e-01 \(at most 1e-03\)"):
        self_check(engine, golden)


def test_the_bounds_are_those_of_the_engines_graph(golden: Golden, brightness_logits: Infer) -> None:
    engine = FakeEngine(lambda images: brightness_logits(images) + np.float32(0.5))
    engine.graph = replace(engine.graph, bounds=Bounds(0.99))
    assert len(self_check(engine, golden)) == 4


@pytest.mark.parametrize(("error", "told"), [(MemoryError("no room"), "no room"), (MemoryError(), "MemoryError")])
def test_a_run_that_fails_is_told_with_its_batch_size(
    error: Exception, told: str, golden: Golden, brightness_logits: Infer
) -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images) == 4:
            raise error
        return brightness_logits(images)

    with pytest.raises(SelfCheckError, match=f"the fake engine at batch 4 failed on the golden inputs: {told}$"):
        self_check(FakeEngine(infer), golden)


def test_an_error_of_the_engine_itself_passes_as_it_is(golden: Golden) -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise EngineError("the GPU is gone")

    with pytest.raises(EngineError, match=r"^the GPU is gone$"):
        self_check(FakeEngine(infer), golden)


def test_another_shape_is_told(golden: Golden) -> None:
    engine = FakeEngine(lambda images: np.zeros((len(images), 3, 4, 4), np.float32))
    with pytest.raises(SelfCheckError, match=r"shape \(1, 3, 4, 4\), expected \(1, 3, 8, 16\)"):
        self_check(engine, golden)
