"""The self-check of an engine: golden inputs at several batch sizes, compared with PyTorch's stored outputs."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.engines.base import DirectEngine, Engine, EngineError, Rows
from service.model_directory.agreement import Agreement
from service.model_directory.golden import Golden

BATCH_SIZES = (1, 2, 4, 8)


class SelfCheckError(EngineError):
    """An engine that failed on the golden inputs, or does not agree with PyTorch on them."""


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """One batch size: its agreement with PyTorch, and the median time of a batch in milliseconds."""

    batch_size: int
    agreement: Agreement
    milliseconds: float


def self_check(
    engine: Engine, golden: Golden, batch_sizes: Sequence[int] = BATCH_SIZES, repeats: int = 1
) -> list[CheckedBatch]:
    """Run the golden inputs in batches, repeated to fill them, and compare every row with PyTorch's.

    An engine that takes several batches at once has memory and graphs for each, and uses them in turn. So that all are
    compared, it takes that many repeats.

    Args:
        engine: The engine that would serve.
        golden: Inputs of its size.
        batch_sizes: Those above the engine's largest are left out.
        repeats: Timed runs of each; the outputs of the last are compared, of one for each batch at once.

    Raises:
        SelfCheckError: A run failed, gave another shape, or is beyond the bounds of the engine's graph.
        GoldenError: The golden inputs have no labels of the graph's stride.
    """
    return [_check_batch(engine, golden, size, repeats) for size in batch_sizes if size <= engine.max_batch_size]


def batches_at_once(engine: Engine) -> int:
    """Batches that an engine takes at once: those of a ``DirectEngine``, or 1."""
    return engine.batches_at_once if isinstance(engine, DirectEngine) else 1


def _check_batch(engine: Engine, golden: Golden, size: int, repeats: int) -> CheckedBatch:
    # Each size starts with another image, so that no row can pass with its neighbour's result.
    indices = [(size + row) % len(golden.images) for row in range(size)]
    images = golden.images[indices]
    seconds = []
    last: deque[Rows] = deque(maxlen=batches_at_once(engine))
    subject = f"the {engine.name} engine at batch {size}"
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            last.append(engine.infer(images))
            seconds.append(time.perf_counter() - start)
        agreements = [golden.agreement(np.asarray(rows), engine.graph, indices) for rows in last]
    except EngineError:
        raise
    except Exception as error:
        raise SelfCheckError(f"{subject} failed on the golden inputs: {str(error) or type(error).__name__}") from error
    for agreement in agreements:
        if (fault := agreement.fault(engine.graph.bounds)) is not None:
            raise SelfCheckError(f"{subject} differs from PyTorch on the golden inputs: {fault}")
    return CheckedBatch(size, agreements[-1], statistics.median(seconds) * 1e3)
