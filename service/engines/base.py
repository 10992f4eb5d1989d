"""The protocol of an engine, and the warm-up that checks it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import GraphInfo

Images = Sequence[NDArray[np.uint8]]
"""Images (h, w, 3) of the size of the model."""
Rows = NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint8]


class EngineError(RuntimeError):
    """An engine that cannot be built or breaks its promises; the text says what to do about it."""


class Engine(Protocol):
    """A model ready to run; used by one thread at a time.

    Attributes:
        name: Runtime, e.g. ``onnxruntime``.
        graph: The graph it was made from: input size, precision, and the form of its output.
        num_classes: K.
        max_batch_size: Largest B that it takes, or that pays.
        warm_up_sizes: Batch sizes whose first run takes longer than the next.
    """

    @property
    def name(self) -> str: ...
    @property
    def graph(self) -> GraphInfo: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def warm_up_sizes(self) -> Sequence[int]: ...

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, ceil(h / 4), ceil(w / 4)) of RGB images (B, h, w, 3) uint8, row by row.

        They are float32 or float16, see ``GraphInfo.logits_type``; or the labels (B, h', w') uint8 that the graph makes
        of them, see ``GraphInfo.output``.

        Raises:
            Exception: Whatever the runtime raises; the batch is lost, the engine may be used again.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it is not used afterwards."""
        ...


@runtime_checkable
class DirectEngine(Protocol):
    """An engine that reads images in place, writes outputs where they are wanted, and copies beside its runs.

    Attributes:
        batches_at_once: Batches that it takes at once, each in its own thread: while one runs, the copies of the
            others are made.
    """

    @property
    def batches_at_once(self) -> int: ...

    def infer_into(self, images: Images, outputs: Sequence[Rows]) -> None:
        """Run images (h, w, 3) uint8, and write the output of each, see ``Engine.infer``; from any thread.

        Raises:
            Exception: As ``Engine.infer``.
        """
        ...

    def pin(self, memory: Rows) -> None:
        """Let the device access the memory of an image or an output directly, for as long as it exists."""
        ...


@runtime_checkable
class DeviceTimed(Protocol):
    """An engine that can time its network alone, without the copies between host and device."""

    def device_milliseconds(self, size: int, repeats: int) -> list[float]:
        """Milliseconds of each run of a prepared batch size, on the images of the last one."""
        ...


def output_dtype(graph: GraphInfo) -> np.dtype[Any]:
    """Type of a graph's output: float32 or float16 for logits, uint8 for labels."""
    return np.dtype(graph.logits_type if graph.output == "logits" else np.uint8)


def check_images(images: NDArray[Any], input_size: tuple[int, int]) -> None:
    """Raises ``EngineError`` unless images are a batch (B, h, w, 3) uint8 of an engine's input size, B >= 1."""
    height, width = input_size
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3) or not len(images):
        raise EngineError(
            f"images are {images.dtype} {images.shape}, expected uint8 (B, {height}, {width}, 3) with B >= 1"
        )


def unfused_attentions(engine: Engine) -> int:
    """Attentions of a TensorRT engine that its layer report does not show as one kernel; 0 for other runtimes."""
    return int(getattr(engine, "unfused_attentions", 0))


@contextmanager
def closed_on_error(engine: Engine) -> Iterator[None]:
    """Close an engine if the block fails; an error of closing does not hide the block's own, as where a GPU is lost."""
    try:
        yield
    except BaseException:
        with suppress(EngineError):
            engine.close()
        raise


def warm_up(engine: Engine, repeats: int = 1) -> dict[int, float]:
    """Run the engine at each size in ``warm_up_sizes``, on black images; gives the seconds of the last run of a size.

    Raises:
        EngineError: The run failed, or its result has another shape or values that are not finite.
    """
    height, width = engine.graph.input_size
    dtype = output_dtype(engine.graph)
    seconds: dict[int, float] = {}
    for size in [size for size in engine.warm_up_sizes for _ in range(repeats)]:
        started = time.perf_counter()
        expected = engine.graph.output_shape(size, engine.num_classes)
        try:
            rows = engine.infer(np.zeros((size, height, width, 3), np.uint8))
        except Exception as error:
            raise EngineError(f"the {engine.name} engine failed on a batch of {size} black images: {error}") from error
        seconds[size] = time.perf_counter() - started
        if rows.shape != expected or rows.dtype != dtype:
            raise EngineError(
                f"the {engine.name} engine gave {rows.dtype} {rows.shape} for a batch of {size}, "
                f"expected {dtype} {expected}"
            )
        if not np.isfinite(rows).all():
            raise EngineError(f"the {engine.name} engine gave logits with NaN or infinity for black images")
    return seconds
