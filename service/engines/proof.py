"""The proof of an engine before it serves: its outputs equal PyTorch's on the golden inputs."""

from __future__ import annotations

import logging
from pathlib import Path

from service.engines.base import Engine, EngineError, warm_up
from service.engines.runtimes import CPU_RUNTIMES
from service.engines.selfcheck import SelfCheckError, batches_at_once, self_check
from service.engines.streams import concurrent_runs
from service.model_directory.golden import GoldenError, read_golden
from service.model_directory.manifest import Manifest

logger = logging.getLogger(__name__)

# The first run of a size is plain, and its CUDA graph is what serves: TensorRT-RTX's replays from the third run on.
_GPU_REPEATS = 3


def prove_engine(engine: Engine, model_dir: Path, manifest: Manifest) -> dict[int, float]:
    """Run the directory's golden inputs at each of the engine's warm-up sizes, and compare the outputs with PyTorch's.

    The largest batch of a CPU is shared out over all streams.

    Gives the seconds of a batch by its size. On a CPU they are those of the first run of a size, which is slower. Of an
    engine with streams the largest size alone is given: that it pays was measured, and first runs would not show it.

    An engine whose directory has no golden inputs is warmed up on black images, and the log says so.

    Raises:
        EngineError: The engine failed, or does not agree with PyTorch.
    """
    repeats = repeats_of_proof(engine)
    if manifest.golden is None:
        logger.warning("%s has no golden inputs: the engine is warmed up, but not compared with PyTorch", model_dir)
        return _relevant_times(engine, warm_up(engine, repeats))
    try:
        golden = read_golden(model_dir, manifest, engine.graph.input_size)
    except GoldenError as error:
        raise EngineError(str(error)) from error
    try:
        checked = self_check(engine, golden, engine.warm_up_sizes, repeats)
    except SelfCheckError as error:
        raise EngineError(f"{error}; --engine and --precision choose another runtime or graph") from error
    for batch in checked:
        logger.info(
            "self-check: %s at batch %d, %s, %.0f ms",
            engine.name,
            batch.batch_size,
            batch.agreement,
            batch.milliseconds,
        )
    return _relevant_times(engine, {batch.batch_size: batch.milliseconds / 1000 for batch in checked})


def repeats_of_proof(engine: Engine) -> int:
    """Runs of each batch size until what will serve has run: on a GPU a graph for each batch that it takes at once."""
    return 1 if engine.name in CPU_RUNTIMES else _GPU_REPEATS * batches_at_once(engine)


def _relevant_times(engine: Engine, seconds: dict[int, float]) -> dict[int, float]:
    """The times from which the size of a batch is chosen."""
    return seconds if concurrent_runs(engine) == 1 else {max(seconds): seconds[max(seconds)]}
