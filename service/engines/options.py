"""The engine that a caller wants: runtime, arithmetic, size, threads, and the folder of TensorRT's engines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from service.engines.cpus import available_cpus
from service.engines.runtimes import EngineName, PrecisionName
from service.model_directory.sizes import Size


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of ``create_engine``; the defaults leave every choice to it.

    Attributes:
        engine: The runtime; ``auto`` takes the fastest that can be used.
        precision: Arithmetic of the graph; ``auto`` takes the fastest that was exported.
        input_size: (height, width) of the graph in pixels; None for the first of the model.
        speed: Whether None is the model's smallest input size in place of its first; for ``open_engine``.
        num_threads: CPU threads of all runs together.
        num_streams: Runs at once on a CPU, each with its share of the threads; an image alone gets all of them.
        max_batch_size: Images of one run at the most; None for what the runtime and the graph allow.
        engine_dir: Folder of TensorRT engines; None for ``engines`` in the model directory.
        engine_file: A TensorRT engine that the caller trusts; None to search ``engine_dir``.
        build_engine: Whether a TensorRT engine that is missing is built.
        measure: Whether ``auto`` measures what it finds (``service.engines.measured_choice``), or takes runtimes and
            precisions in a fixed order.
        cache_dir: Folder of what is kept for the next start, measured times and compiled graphs; None to keep nothing.
    """

    engine: EngineName = "auto"
    precision: PrecisionName = "auto"
    input_size: Size | None = None
    speed: bool = False
    num_threads: int = field(default_factory=available_cpus)
    num_streams: int = 1
    max_batch_size: int | None = None
    engine_dir: Path | None = None
    engine_file: Path | None = None
    build_engine: bool = False
    measure: bool = False
    cache_dir: Path | None = None
