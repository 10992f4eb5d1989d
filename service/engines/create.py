"""The engine of a model directory: what can be used here, what is chosen of it, and why."""

from __future__ import annotations

import logging
from pathlib import Path

from model_export.manifest import Manifest
from service.engines.base import Engine
from service.engines.choice import choose_graph, choose_runtime
from service.engines.names import RuntimeName
from service.engines.onnxruntime_engine import OnnxRuntimeEngine, cuda_obstacle
from service.settings import Settings

logger = logging.getLogger(__name__)


def create_engine(model_dir: Path, manifest: Manifest, settings: Settings) -> Engine:
    """The engine for a model directory.

    Raises:
        EngineError: A runtime that was asked for cannot be used, or the graph is not what the manifest states.
    """
    choice = choose_runtime(settings.engine, obstacles())
    graph = choose_graph(manifest, choice.runtime, settings.precision, settings.input_size)
    reasons = "".join(f"; not {runtime}: {reason}" for runtime, reason in choice.passed_over.items())
    logger.info("engine %s runs %s (%s)%s", choice.runtime, graph.file, graph.precision, reasons)
    return OnnxRuntimeEngine(
        model_dir,
        manifest,
        graph,
        num_threads=settings.engine_threads,
        max_batch_size=settings.max_batch_size,
        device="cuda" if choice.runtime == "onnxruntime-cuda" else "cpu",
    )


def obstacles() -> dict[RuntimeName, str | None]:
    """Per runtime, why it cannot be used on this machine, or None."""
    return {
        "tensorrt": "not yet",
        "tensorrt-rtx": "not yet",
        "onnxruntime-cuda": cuda_obstacle(),
        "onnxruntime": None,
    }
