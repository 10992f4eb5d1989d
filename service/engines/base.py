"""What an engine is, which one serves a model directory, and the trial run that shows that it keeps its promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_export.manifest import Manifest, logits_size
from service.settings import Settings


class EngineError(RuntimeError):
    """An engine that cannot be built or breaks its promises; the text says what to do about it."""


class Engine(Protocol):
    """A model ready to run; used by one thread at a time.

    Attributes:
        name: Runtime, e.g. ``onnxruntime``.
        input_size: (h, w) in pixels of the images that it takes.
        num_classes: K.
        max_batch_size: Largest B that it takes, or that pays.
        warm_up_sizes: Batch sizes whose first run is dearer than the next.
    """

    @property
    def name(self) -> str: ...
    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def max_batch_size(self) -> int: ...
    @property
    def warm_up_sizes(self) -> Sequence[int]: ...

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (B, K, ceil(h / 4), ceil(w / 4)) float32 of RGB images (B, h, w, 3) uint8, row by row.

        Raises:
            Exception: Whatever the runtime raises; the batch is lost, the engine may be used again.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; it is not used afterwards."""
        ...


def create_engine(model_dir: Path, manifest: Manifest, settings: Settings) -> Engine:
    """The engine for a model directory.

    Raises:
        EngineError: The runtime is not installed, or the graph is not what the manifest states.
    """
    # Not at the top: an engine's runtime takes long to load, and only the chosen one need be installed.
    from service.engines.onnxruntime_engine import OnnxRuntimeEngine  # noqa: PLC0415

    return OnnxRuntimeEngine(
        model_dir, manifest, num_threads=settings.engine_threads, max_batch_size=settings.max_batch_size
    )


def warm_up(engine: Engine) -> None:
    """Run the engine once per size in ``warm_up_sizes``, on black images.

    Raises:
        EngineError: The run failed, or its result has another shape or values that are not finite.
    """
    height, width = engine.input_size
    for size in engine.warm_up_sizes:
        expected = (size, engine.num_classes, *logits_size(engine.input_size))
        try:
            logits = engine.infer(np.zeros((size, height, width, 3), np.uint8))
        except Exception as error:
            raise EngineError(f"the {engine.name} engine failed on a batch of {size} black images: {error}") from error
        if logits.shape != expected or logits.dtype != np.float32:
            raise EngineError(
                f"the {engine.name} engine gave {logits.dtype} {logits.shape} for a batch of {size}, "
                f"expected float32 {expected}"
            )
        if not np.isfinite(logits).all():
            raise EngineError(f"the {engine.name} engine gave logits with NaN or infinity for black images")
