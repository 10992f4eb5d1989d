"""TensorRT engines for the graphs of a model directory, each with a look at whether the SAUs' attentions are fused."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from service.engines.tensorrt.compile import CompileError, Plan, Profile, compile_plan
from service.engines.tensorrt.layer_report import (
    AttentionNodes,
    Fusion,
    LayerReportError,
    count_fused,
    parse_layers,
)
from service.model_directory.engine_store import (
    ENGINE_FOLDER,
    EngineInfo,
    EngineKey,
    building,
    find_built,
    write_engine,
)
from service.model_directory.files import write_whole
from service.model_directory.machine import (
    ANY_GPU,
    ENGINE_RUNTIMES,
    EngineRuntime,
    Machine,
    MachineError,
    detect_builder,
)
from service.model_directory.machine import runtime_module as load_runtime
from service.model_directory.manifest import GraphInfo, Manifest, Precision, read_manifest
from service.model_directory.sizes import Size, format_size

logger = logging.getLogger(__name__)

MAX_BATCH_SIZE = 8
_HEARTBEAT_S = 15.0

Progress = Callable[[str], None]


class BuildError(RuntimeError):
    """An engine that cannot be built; one sentence, with what to do about it."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        runtime: ``auto`` takes TensorRT where it and a GPU are present, else TensorRT-RTX.
        sizes: (height, width) of inputs in pixels; empty for all of the model directory.
        precision: Of the graphs; fp32 is refused, since TensorRT does not fuse its attention.
        max_batch_size: Largest batch of the engines, 1 or more.
        force: Build existing engines again.
        require_fused: Keep an engine only if the attention of every SAU is seen to be fused in it. Otherwise one that
            is not, or whose kernels have unknown names, is a warning: the golden outputs decide whether it serves.

    Raises:
        BuildError: A value out of range.
    """

    runtime: EngineRuntime | Literal["auto"] = "auto"
    sizes: tuple[Size, ...] = ()
    precision: Precision = "fp16"
    max_batch_size: int = MAX_BATCH_SIZE
    force: bool = False
    require_fused: bool = False

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise BuildError(f"max_batch_size is {self.max_batch_size}, expected 1 or more")
        if self.precision == "fp32":
            raise BuildError("TensorRT does not fuse attention in fp32; choose fp16 or int8")

    @property
    def profile(self) -> Profile:
        """Least, best and largest batch of the engine as a whole; see ``compile.profiles_of``."""
        return 1, self.max_batch_size, self.max_batch_size


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine that exists after a build.

    Attributes:
        info: Its manifest, with the path.
        graph: The graph that it was built from.
        plan_bytes: Size of its file.
        seconds: Time of its build; 0 if the engine was reused.
        fusion: The result of its layer report; None if the engine was reused.
        memory_bytes: GPU memory of its activations at the largest batch; None if reused or unknown.
    """

    info: EngineInfo
    graph: GraphInfo
    plan_bytes: int
    seconds: float = 0.0
    fusion: Fusion | None = None
    memory_bytes: int | None = None

    def __str__(self) -> str:
        """Give path, size, input, batch, GPU and fusion in one line."""
        info, machine = self.info, self.info.key.machine
        parts = [
            f"{info.path}: {self.plan_bytes / 1e6:.1f} MB, input {format_size(info.input_size)}, {info.precision}, "
            f"batch 1..{info.max_batch_size}, {machine.runtime} {machine.runtime_version} for "
            f"{machine.gpu_name if machine.driver_version else 'any GPU'} ({machine.compute_capability})"
        ]
        if self.fusion is None:
            day = time.strftime("%Y-%m-%d", time.localtime(info.built))
            parts.append(f"{info.fused_attentions} of {info.attentions} attentions fused")
            parts.append(f"built on {day} and reused; --force builds it again")
        else:
            parts.append(f"{self.fusion}, {self.fusion.layers} layers")
            parts.append(f"built in {self.seconds:.1f} s")
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes / 1e6:.0f} MB of GPU memory at batch {info.max_batch_size}")
        return "; ".join(parts)


def build_engines(
    model_dir: Path,
    engine_dir: Path | None = None,
    options: BuildOptions | None = None,
    progress: Progress = lambda _: None,
) -> list[EngineReport]:
    """Build the missing engines of a model directory. Existing ones, of the same key and unchanged, are reused.

    Args:
        model_dir: The model directory.
        engine_dir: Folder of the engines; by default ``engines`` in the model directory.
        options: Which engines, and how.
        progress: Called with a line at the start of each build, and every quarter of a minute.

    Raises:
        MachineError: No TensorRT, or no GPU where it needs one.
        BuildError: The directory has no such graph, or TensorRT does not take it.
        FusionError: Fusion is required, and an attention of an SAU is not fused; the engine is not kept.
        LayerReportError: Fusion is required, and TensorRT does not report its layers.
        ManifestError: The model directory cannot be used.
        EngineStoreError: Engines cannot be written.
    """
    options = options or BuildOptions()
    manifest = read_manifest(model_dir)
    graphs = graphs_to_build(manifest, options.sizes, options.precision)
    machine = builder_machine(options.runtime)
    folder = engine_dir or model_dir / ENGINE_FOLDER
    with building(folder, lambda: progress(f"another build in {folder} is under way; waiting for it")):
        return [
            _Build(
                model_dir / graph.file,
                num_classes=manifest.num_classes,
                graph=graph,
                folder=folder,
                machine=machine,
                options=options,
                progress=progress,
            ).report()
            for graph in graphs
        ]


def graphs_to_build(manifest: Manifest, sizes: tuple[Size, ...], precision: Precision) -> list[GraphInfo]:
    """The graph of each size, by default of every size of the manifest, in one precision.

    Raises:
        BuildError: A size has none; the text has the command that writes it.
    """
    wanted = dict.fromkeys(sizes or (graph.input_size for graph in manifest.graphs))
    by_size = {graph.input_size: graph for graph in manifest.graphs if graph.precision == precision}
    if missing := [format_size(size) for size in wanted if size not in by_size]:
        raise BuildError(
            f"{manifest.name} has no {precision} graph of {', '.join(missing)} to build from; it has "
            f"{manifest.graph_list}; {_command_for(precision, missing)}"
        )
    return [by_size[size] for size in wanted]


def _command_for(precision: Precision, sizes: list[str]) -> str:
    if precision in ("int8", "fp8"):
        return f"write it with ecenet-export quantize DIR --calibration IMAGES --precision {precision}"
    options = " ".join(f"--size {size}" for size in sizes)
    return (
        f"export the checkpoint again with ecenet-export onnx CHECKPOINT -o DIR {options} "
        "--precision fp32 --precision fp16"
    )


def builder_machine(runtime: EngineRuntime | Literal["auto"]) -> Machine:
    """The runtime that builds, and the GPU that it builds for; ``auto`` takes the first that can.

    Raises:
        MachineError: The runtime that was asked for is not there, or none is; the text has the reason of each.
    """
    if runtime != "auto":
        return detect_builder(runtime)
    reasons = []
    for candidate in ENGINE_RUNTIMES:
        try:
            return detect_builder(candidate)
        except MachineError as error:
            reasons.append(str(error))
    raise MachineError(f"no TensorRT can be used here: {'; '.join(reasons)}")


def engine_key(graph: GraphInfo, machine: Machine, profile: Profile, *, require_fused: bool) -> EngineKey:
    """The key of an engine of a graph."""
    from service.engines.tensorrt.graph import COPY_VERSION  # noqa: PLC0415

    flags: tuple[str, ...] = (f"graph-copy-{COPY_VERSION}", "strongly-typed", "profiling-detailed")
    if machine.runtime == "tensorrt":
        flags = (*flags, "profile-per-size")
    return EngineKey(graph.sha256, machine, profile, flags if require_fused else (*flags, "unfused-allowed"))


def target_machine(machine: Machine, precision: Precision) -> Machine:
    """The target of a build, without the GPUs that cannot run it.

    int8 excludes Turing: its graphs keep float32 products that RTX cannot run there. FP8 begins with Ada.

    Args:
        machine: The one that builds.
        precision: Of the graph.
    """
    if machine.gpu_name != ANY_GPU or precision == "fp16":
        return machine
    least = 8.9 if precision == "fp8" else 8.0
    capabilities = [entry for entry in machine.compute_capability.split(",") if float(entry) >= least]
    return replace(machine, compute_capability=",".join(capabilities))


def timing_cache_path(folder: Path, machine: Machine) -> Path:
    """The timing cache of one version on one kind of GPU; another version would refuse it."""
    name = f"{machine.runtime}-{machine.runtime_version}-{machine.gpu_name}-{machine.compute_capability}"
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}.timing"


class _Build:
    """One engine."""

    def __init__(
        self,
        path: Path,
        *,
        num_classes: int,
        graph: GraphInfo,
        folder: Path,
        machine: Machine,
        options: BuildOptions,
        progress: Progress,
    ) -> None:
        self.path = path
        self.num_classes = num_classes
        self.graph = graph
        self.folder = folder
        self.machine = target_machine(machine, graph.precision)
        self.options = options
        self.progress = progress

    def report(self) -> EngineReport:
        """The existing engine, or a new one."""
        found = None if self.options.force else self._built()
        if found is not None:
            return EngineReport(found, self.graph, found.path.stat().st_size)
        start = time.perf_counter()
        plan, attentions = self._compile()
        seconds = time.perf_counter() - start
        fusion = self._fusion(plan, attentions)
        return EngineReport(
            info=write_engine(self.folder, plan.content, self._info(fusion)),
            graph=self.graph,
            plan_bytes=len(plan.content),
            seconds=seconds,
            fusion=fusion,
            memory_bytes=plan.memory_bytes,
        )

    def _key(self, require_fused: bool) -> EngineKey:
        return engine_key(self.graph, self.machine, self.options.profile, require_fused=require_fused)

    def _built(self) -> EngineInfo | None:
        """A fused engine also serves builds that do not require fusion."""
        fused = find_built(self.folder, self._key(True))
        return find_built(self.folder, self._key(False)) if fused is None and not self.options.require_fused else fused

    def _fusion(self, plan: Plan, attentions: AttentionNodes) -> Fusion:
        """The fused attentions of an engine; others cause a warning, or an error where fusion is required.

        Names of kernels differ between versions and GPUs of TensorRT, so they alone are no reason not to serve.
        """
        try:
            fusion = count_fused(parse_layers(plan.layer_report), attentions)
        except LayerReportError as error:
            if self.options.require_fused:
                raise
            logger.warning("%s: %s", self.graph.file, error)
            return count_fused([], attentions)
        if self.options.require_fused:
            fusion.check(self.graph.file)
        elif (fault := fusion.fault) is not None:
            logger.warning("%s: %s; the engine may be slow, and is kept", self.graph.file, fault)
        return fusion

    def _compile(self) -> tuple[Plan, AttentionNodes]:
        """An engine whose attentions TensorRT has to fuse; if it cannot, one in which it may decompose them."""
        try:
            return self._compile_copy(allow_unfused=False)
        except BuildError as error:
            if self.options.require_fused:
                raise
            try:
                built = self._compile_copy(allow_unfused=True)
            except BuildError:
                raise error from None
            logger.warning("%s; built with attentions that TensorRT may decompose, which are slower", error)
            return built

    def _compile_copy(self, *, allow_unfused: bool) -> tuple[Plan, AttentionNodes]:
        copy, attentions = self._copy(allow_unfused)
        cache_path = timing_cache_path(self.folder, self.machine)
        cache = cache_path.read_bytes() if cache_path.is_file() else None
        subject = f"{self.graph.file} with {self.machine.runtime} {self.machine.runtime_version}"
        with heartbeat(self.progress, f"building {subject}; on a GPU this takes minutes"):
            try:
                plan = compile_plan(load_runtime(self.machine.runtime), copy, self.machine, self.options.profile, cache)
            except CompileError as error:
                raise BuildError(f"{subject}: {error}; {self._remedy()}") from error
        if plan.timing_cache is not None:
            write_whole(cache_path, plan.timing_cache)
        return plan, attentions

    def _copy(self, allow_unfused: bool) -> tuple[bytes, AttentionNodes]:
        """The graph as TensorRT gets it, and its attentions; the protobuf is not kept."""
        import onnx  # noqa: PLC0415

        from service.engines.tensorrt.graph import attention_nodes, tensorrt_copy  # noqa: PLC0415

        model = onnx.load(self.path)
        copy = tensorrt_copy(model, allow_unfused=allow_unfused, runtime=self.machine.runtime)
        return copy.SerializeToString(), attention_nodes(copy)

    def _remedy(self) -> str:
        if self.graph.precision == "fp16":
            return "update TensorRT, or serve the graph with --engine onnxruntime-cuda"
        return f"{self.graph.precision} is not for every GPU: build from an fp16 graph with --precision fp16"

    def _info(self, fusion: Fusion) -> EngineInfo:
        return EngineInfo(
            key=self._key(self.options.require_fused),
            sha256="",  # of the file that is written
            input_size=self.graph.input_size,
            precision=self.graph.precision,
            output=self.graph.output,
            output_stride=self.graph.output_stride,
            num_classes=self.num_classes,
            attentions=fusion.saus + fusion.windows,
            fused_attentions=fusion.fused_saus + fusion.fused_windows,
            built=time.time(),
        )


@contextmanager
def heartbeat(progress: Progress, line: str, interval_s: float = _HEARTBEAT_S) -> Iterator[None]:
    """Report a line at once, and again with the elapsed time at every interval, until the work is done."""
    start = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(interval_s):
            progress(f"{line}; {time.monotonic() - start:.0f} s so far")

    progress(line)
    thread = threading.Thread(target=beat, name="build-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
