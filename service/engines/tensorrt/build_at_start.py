"""A missing TensorRT engine, built at the start in its own process.

The memory of the build is given back with that process, nothing that it does can hold up the health checks, and it ends
with the service, whatever ends that.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from service.engines.base import EngineError
from service.engines.choice import precision_obstacle
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName
from service.engines.tensorrt import build_process
from service.engines.tensorrt.build import MAX_BATCH_SIZE, BuildError, BuildOptions, graphs_to_build
from service.engines.tensorrt.build_process import FAILURE_PREFIX, BuildRequest
from service.model_directory.machine import ENGINE_RUNTIMES, EngineRuntime, Machine, MachineError, RuntimeMissingError
from service.model_directory.manifest import Manifest

logger = logging.getLogger(__name__)

_LONGEST_SILENCE_S = 5.0
_WAY_OUT = (
    "to serve without TensorRT choose --engine onnxruntime-cuda, which needs CUDA and cuDNN, or --engine onnxruntime "
    "for the CPU"
)


def is_wanted(options: EngineOptions, wanted: EngineName) -> bool:
    """True if a missing engine must be built: ``build_engine`` is set, and no engine file or other runtime is named."""
    return options.build_engine and options.engine_file is None and wanted in ("auto", *ENGINE_RUNTIMES)


def usable_runtime(wanted: EngineName, detect: Callable[[EngineRuntime], Machine]) -> EngineRuntime:
    """The runtime to build for: that of the name, or the first that has its package and a GPU.

    Args:
        wanted: ``auto``, ``tensorrt`` or ``tensorrt-rtx``.
        detect: Gives the machine of a runtime, or raises ``MachineError``.

    Raises:
        EngineError: There is none; the text names what is missing. Nothing else is used in its place.
    """
    faults: list[MachineError] = []
    for runtime in ENGINE_RUNTIMES:
        if wanted in ("auto", runtime):
            try:
                detect(runtime)
            except MachineError as error:
                faults.append(error)
            else:
                return runtime
    # A package that is installed but finds no GPU explains more than one that is missing.
    reason = next((fault for fault in faults if not isinstance(fault, RuntimeMissingError)), faults[0])
    raise EngineError(f"--build-engine cannot build here: {reason}; {_WAY_OUT}") from reason


def build_options(manifest: Manifest, runtime: EngineRuntime, options: EngineOptions) -> BuildOptions:
    """Options of the build: the graph that would serve, for batches of up to ``max_batch_size``.

    Raises:
        EngineError: The model has no such graph, or TensorRT does not fuse its attention or compute in its precision.
    """
    if (obstacle := precision_obstacle(runtime, options.precision)) is not None:
        raise EngineError(f"--engine {runtime} cannot be used: {obstacle}")
    try:
        build = BuildOptions(
            runtime=runtime,
            sizes=(options.input_size or manifest.graph.input_size,),
            precision="fp16" if options.precision == "auto" else options.precision,
            max_batch_size=options.max_batch_size or MAX_BATCH_SIZE,
        )
        graphs_to_build(manifest, build.sizes, build.precision)
    except BuildError as error:
        raise EngineError(f"--build-engine cannot build an engine: {error}") from error
    return build


def build_command(model_dir: Path, folder: Path, options: BuildOptions) -> list[str]:
    """Command line of ``build_process``, a process that ends with this one."""
    request = BuildRequest(model_dir, folder, options)
    return [sys.executable, "-u", "-m", build_process.__name__, str(os.getpid()), request.to_json()]


def run_build(command: Sequence[str], longest_silence_s: float = _LONGEST_SILENCE_S) -> None:
    """Run a build to its end; its output is logged, and after each silence a line that it continues.

    Raises:
        EngineError: It failed; the text has its reason.
    """
    started = time.monotonic()
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        lines = _spoken(process.stdout)
        said = ["building a TensorRT engine"]
        while True:
            try:
                line = lines.get(timeout=longest_silence_s)
            except Empty:
                logger.info("%s; %.0f s so far", said[-1], time.monotonic() - started)
                continue
            if line is None:
                break
            said.append(line)
            logger.info("%s", line)
    if process.returncode != 0:
        raise EngineError(f"no TensorRT engine could be built: {failure(process.returncode, said)}; {_WAY_OUT}")


def failure(status: int, said: Sequence[str]) -> str:
    """The reason of a failed build, by its exit status and its lines; a sentence without a full stop."""
    if status < 0:
        return f"signal {-status} ended the build (9: probably out of memory)"
    complaints = [line.removeprefix(FAILURE_PREFIX) for line in said if line.startswith(FAILURE_PREFIX)]
    return complaints[-1] if complaints else f"the build ended with status {status}: {said[-1]}"


def _spoken(stream: Iterable[str]) -> SimpleQueue[str | None]:
    """The lines of a stream as they come, then None."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in stream:
            if line := line.strip():
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="build-log", daemon=True).start()
    return lines
