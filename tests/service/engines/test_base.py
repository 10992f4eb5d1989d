"""The trial run finds engines that break their promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.base import EngineError, closed_on_error, warm_up
from service.model_directory.manifest import GraphInfo


class Engine:
    name = "fake"
    graph = GraphInfo("model.onnx", "0" * 64, (32, 64))
    num_classes = 3
    max_batch_size = 2
    warm_up_sizes = (1, 2)

    def __init__(self, infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> None:
        self.infer = infer

    def close(self) -> None:
        pass


def test_every_size_is_run_once() -> None:
    shapes = []

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shapes.append(images.shape)
        return np.zeros((len(images), 3, 8, 16), np.float32)

    warm_up(Engine(infer))
    assert shapes == [(1, 32, 64, 3), (2, 32, 64, 3)]


def test_error_of_the_engine_is_told() -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise MemoryError("no room")

    with pytest.raises(EngineError, match="batch of 1 black images: no room"):
        warm_up(Engine(infer))


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1, 3, 8, 16), np.float32), ((2, 3, 8, 8), np.float32), ((2, 3, 8, 16), np.float16)]
)
def test_wrong_shape_or_type_is_told(shape: tuple[int, ...], dtype: type) -> None:
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.zeros((1, 3, 8, 16), np.float32) if len(images) == 1 else np.zeros(shape, dtype)

    with pytest.raises(EngineError, match=r"batch of 2, expected float32 \(2, 3, 8, 16\)"):
        warm_up(Engine(infer))


def test_nan_is_told() -> None:
    with pytest.raises(EngineError, match="NaN"):
        warm_up(Engine(lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float32)))


class Lost(Engine):
    def close(self) -> None:
        raise EngineError("cudaStreamDestroy gave cudaErrorIllegalAddress")


def test_an_engine_is_closed_on_an_error_and_the_first_error_counts() -> None:
    engine = Lost(lambda _: np.zeros((1, 3, 8, 16), np.float32))
    with closed_on_error(engine):
        pass
    with pytest.raises(EngineError, match=r"^differs from PyTorch$"), closed_on_error(engine):
        raise EngineError("differs from PyTorch")
