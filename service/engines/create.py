"""The engine of a model directory: the usable runtimes, the choice among them, and its reason."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from service.engines.base import Engine, EngineError
from service.engines.choice import candidate_graphs, choose_graph, choose_runtime, precision_obstacle
from service.engines.kept_graphs import GRAPH_FOLDER
from service.engines.onnxruntime_cuda import OnnxRuntimeCudaEngine, cuda_obstacle
from service.engines.onnxruntime_engine import OnnxRuntimeEngine, cpu_obstacle
from service.engines.openvino_engine import OpenVinoEngine, openvino_obstacle
from service.engines.options import EngineOptions
from service.engines.runtimes import RUNTIMES, EngineName, RuntimeName
from service.engines.tensorrt import cuda
from service.engines.tensorrt.engine import TensorRtEngine
from service.model_directory.engine_store import ENGINE_FOLDER, EngineInfo, EngineStoreError, find_engine, named_engine
from service.model_directory.machine import ENGINE_RUNTIMES, EngineRuntime, Machine, MachineError, detect_machine
from service.model_directory.manifest import GraphInfo, Manifest
from service.model_directory.sizes import format_size

logger = logging.getLogger(__name__)


def create_engine(model_dir: Path, manifest: Manifest, options: EngineOptions) -> Engine:
    """The engine for a model directory.

    Raises:
        EngineError: A runtime that was asked for cannot be used, the graph is not what the manifest states, the
            engine that was named is not one of this model, or none could be built.
    """
    options = build_if_wanted(model_dir, manifest, options)
    choice = choose_runtime(_wanted(options), lambda runtime: runtime_obstacle(runtime, model_dir, manifest, options))
    reasons = "".join(f"; not {runtime}: {reason}" for runtime, reason in choice.passed_over.items())
    if choice.runtime in ENGINE_RUNTIMES:
        info, graph = _find_engine(choice.runtime, model_dir, manifest, options)
        if (wish := options.max_batch_size) is not None and (shortfall := _shortfall(info, wish)):
            logger.warning("%s; build another with ecenet-export tensorrt DIR --max-batch-size %d", shortfall, wish)
        logger.info("engine %s runs %s of %s (%s)%s", choice.runtime, info.path, graph.file, graph.precision, reasons)
        return TensorRtEngine(info, graph, manifest.num_classes, max_batch_size=options.max_batch_size)
    graph = choose_graph(manifest, choice.runtime, options.precision, options.input_size)
    logger.info("engine %s runs %s (%s)%s", choice.runtime, graph.file, graph.precision, reasons)
    threads, streams, most = options.num_threads, options.num_streams, options.max_batch_size
    if choice.runtime == "onnxruntime-cuda":
        return OnnxRuntimeCudaEngine(model_dir, manifest, graph, num_threads=threads, max_batch_size=most)
    on_cpu = OnnxRuntimeEngine if choice.runtime == "onnxruntime" else OpenVinoEngine
    return on_cpu(
        model_dir,
        manifest,
        graph,
        num_threads=threads,
        num_streams=streams,
        max_batch_size=most,
        cache_dir=None if options.cache_dir is None else options.cache_dir / GRAPH_FOLDER,
    )


def build_if_wanted(model_dir: Path, manifest: Manifest, options: EngineOptions) -> EngineOptions:
    """The options, with the runtime of a TensorRT engine that exists or has been built if ``build_engine`` is set.

    Raises:
        EngineError: See ``create_engine``.
    """
    if not options.build_engine:
        return options
    from service.engines.tensorrt import build_at_start as build  # noqa: PLC0415 - most starts build nothing

    wanted = _wanted(options)
    if not build.is_wanted(options, wanted):
        return options
    return replace(options, engine=_build_missing(wanted, model_dir, manifest, options), build_engine=False)


def is_decided(options: EngineOptions) -> bool:
    """True if the options name the precision or an engine's file: nothing is to be chosen."""
    return options.precision != "auto" or options.engine_file is not None


def obstacles(
    model_dir: Path, manifest: Manifest, options: EngineOptions, runtimes: Iterable[RuntimeName] = RUNTIMES
) -> dict[RuntimeName, str | None]:
    """Per runtime, why it cannot be used for this model on this machine, or None."""
    return {runtime: runtime_obstacle(runtime, model_dir, manifest, options) for runtime in runtimes}


def runtime_obstacle(runtime: RuntimeName, model_dir: Path, manifest: Manifest, options: EngineOptions) -> str | None:
    """Give why a runtime cannot run a model on this machine, one sentence; None if it can."""
    if (obstacle := precision_obstacle(runtime, options.precision)) is not None:
        return obstacle
    if runtime == "openvino":
        return openvino_obstacle(options.precision)
    if runtime == "onnxruntime":
        return cpu_obstacle()
    if runtime == "onnxruntime-cuda":
        return cuda_obstacle() or cuda.gpu_obstacle()
    try:
        _find_engine(runtime, model_dir, manifest, options)
    except EngineError as error:
        return str(error)
    return None


def _wanted(options: EngineOptions) -> EngineName:
    """The runtime that was asked for: by its name, or by that of an engine, which runs on one only."""
    if options.engine_file is None:
        return options.engine
    runtime = _named(options.engine_file).key.machine.runtime
    if options.engine not in ("auto", runtime):
        raise EngineError(
            f"--engine is {options.engine}, and --engine-file {options.engine_file} is for {runtime}: leave out one"
        )
    return runtime


def _named(path: Path) -> EngineInfo:
    try:
        info = named_engine(path)
    except EngineStoreError as error:
        raise EngineError(str(error)) from error
    if info.key.machine.runtime not in ENGINE_RUNTIMES:
        expected = " or ".join(ENGINE_RUNTIMES)
        raise EngineError(f"the manifest of {path} is for {info.key.machine.runtime!r}, expected {expected}")
    return info


def _find_engine(
    runtime: EngineRuntime, model_dir: Path, manifest: Manifest, options: EngineOptions
) -> tuple[EngineInfo, GraphInfo]:
    """The engine to load, and the graph that it was built from.

    Raises:
        EngineError: No runtime, no GPU, or no engine that may be loaded.
    """
    try:
        machine = detect_machine(runtime)
    except MachineError as error:
        raise EngineError(str(error)) from error
    if options.engine_file is not None:
        return _check_named(_named(options.engine_file), manifest, machine, options)
    graphs = candidate_graphs(manifest, runtime, options.precision, options.input_size)
    return _first_built(_engine_folder(model_dir, options), graphs, machine)


def _engine_folder(model_dir: Path, options: EngineOptions) -> Path:
    return options.engine_dir or model_dir / ENGINE_FOLDER


def _build_missing(wanted: EngineName, model_dir: Path, manifest: Manifest, options: EngineOptions) -> EngineRuntime:
    """The runtime whose engine exists, or has been built: from here on no other is considered.

    Raises:
        EngineError: There is no GPU with a TensorRT, no graph to build from, or the build failed.
    """
    from service.engines.tensorrt import build_at_start as build  # noqa: PLC0415 - most starts build nothing

    runtime = build.usable_runtime(wanted, detect_machine)
    try:
        graphs = candidate_graphs(manifest, runtime, options.precision, options.input_size)
        # The first that TensorRT builds: an existing INT8 engine has to prove itself beside it.
        precision = next((graph.precision for graph in graphs if graph.precision != "fp32"), options.precision)
        info, _ = _find_engine(runtime, model_dir, manifest, replace(options, precision=precision))
        if shortfall := _shortfall(info, options.max_batch_size or 1):
            raise EngineError(shortfall)
    except EngineError as error:
        wanted_engine = build.build_options(manifest, runtime, options)
        logger.info("%s: %s", runtime, error)
        build.run_build(build.build_command(model_dir, _engine_folder(model_dir, options), wanted_engine))
    return runtime


def _shortfall(info: EngineInfo, max_batch_size: int) -> str:
    """The reason why an engine cannot take batches of a size, or an empty text."""
    if info.max_batch_size >= max_batch_size:
        return ""
    return f"{info.path} takes batches of up to {info.max_batch_size}, and --max-batch-size is {max_batch_size}"


def _first_built(folder: Path, graphs: Iterable[GraphInfo], machine: Machine) -> tuple[EngineInfo, GraphInfo]:
    """The engine of the first graph that has one; where none has, the error for the first."""
    failures = []
    for graph in graphs:
        try:
            return find_engine(folder, graph, machine), graph
        except EngineStoreError as error:
            failures.append(error)
    raise EngineError(str(failures[0])) from failures[0]


def _check_named(
    info: EngineInfo, manifest: Manifest, machine: Machine, options: EngineOptions
) -> tuple[EngineInfo, GraphInfo]:
    """An engine that the user trusts, which still has to be one of this model, for this machine and as was asked."""
    build = "build one with ecenet-export tensorrt DIR"
    graph = next((graph for graph in manifest.graphs if graph.sha256 == info.key.graph_sha256), None)
    if graph is None:
        raise EngineError(f"{info.path} was not built from a graph of {manifest.name}; {build}")
    if (misfit := info.key.machine.misfit(machine)) is not None:
        raise EngineError(f"{info.path} cannot be used here: {misfit}; {build}")
    if options.input_size not in (None, graph.input_size):
        raise EngineError(
            f"--input-size is {format_size(options.input_size)}, and {info.path} is for "
            f"{format_size(graph.input_size)}: leave out one"
        )
    if options.precision not in ("auto", graph.precision):
        raise EngineError(
            f"--precision is {options.precision}, and {info.path} computes in {graph.precision}: leave out one"
        )
    return info, graph
