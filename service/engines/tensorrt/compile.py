"""A graph to an engine by TensorRT's own classes: all calls, and all that differs between its packages, are here.

The packages are ``tensorrt`` and ``tensorrt_rtx``, which have the same classes; nothing is imported before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.engines.tensorrt.layer_report import is_report
from service.model_directory.extras import install_command
from service.model_directory.machine import ANY_GPU, Machine, MachineError, supported_capabilities

Profile = tuple[int, int, int]

_ACTIVATION_MEMORY = re.compile(r"Total Activation Memory: (\d+) bytes")


class CompileError(RuntimeError):
    """A graph that TensorRT does not parse or build; the text has TensorRT's first reason."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled engine.

    Attributes:
        content: The serialised engine.
        layer_report: Text for ``layer_report.parse_layers``; without a layer where neither the log nor the engine
            inspector reports them.
        memory_bytes: GPU memory of activations at the largest batch; None where TensorRT does not report it.
        timing_cache: TensorRT's measurements, for the next build; None where the package keeps none.
    """

    content: bytes
    layer_report: str
    memory_bytes: int | None = None
    timing_cache: bytes | None = None


class Log:
    """The part of TensorRT's messages that is kept; all of them may be hundreds of megabytes.

    Attributes:
        errors: Messages of errors, first line each, in order.
        layer_report: The layer report, if it was among them.
        memory_bytes: GPU memory of activations, if it was among them.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.layer_report: str | None = None
        self.memory_bytes: int | None = None

    def add(self, message: str, is_error: bool) -> None:
        """Keep a message, or the facts in it."""
        if is_error:
            self.errors.append(message.splitlines()[0] if message else "an error without a text")
        elif is_report(message):
            self.layer_report = message
        elif (match := _ACTIVATION_MEMORY.search(message)) is not None:
            self.memory_bytes = int(match[1])

    def reason(self) -> str:
        """The first error."""
        return self.errors[0] if self.errors else "TensorRT gives no reason"


def compile_plan(trt: Any, graph: bytes, machine: Machine, profile: Profile, timing_cache: bytes | None = None) -> Plan:
    """Build an engine, which takes seconds, or minutes where kernels are timed on a GPU.

    Args:
        trt: The package ``tensorrt`` or ``tensorrt_rtx``.
        graph: A serialised ONNX graph; the first axis of every input is the batch and free.
        machine: The machine that the engine is built for.
        profile: Least, best and largest batch.
        timing_cache: Measurements of an earlier build by the same version on the same GPU.

    Raises:
        CompileError: TensorRT does not start, does not parse the graph, or has no kernel for a part of it.
        MachineError: TensorRT-RTX does not build for this GPU.
    """
    log = Log()
    logger = _logger(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # so the binding says that TensorRT gave none, e.g. as CUDA has no memory
        raise CompileError(f"TensorRT cannot start: {log.reason()}") from error
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)  # holds weights of the network: both have to outlive the build
    if not parser.parse(graph):
        raise CompileError(f"TensorRT cannot parse the graph: {_parser_reason(parser) or log.reason()}")
    config = _config(trt, builder, network, machine, profile)
    keeps_timings = set_timing_cache(config, machine, timing_cache)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise CompileError(f"TensorRT cannot build the graph: {log.reason()}")
    content = bytes(serialized)
    return Plan(
        content,
        log.layer_report or _inspected_layers(trt, logger, log, content),
        log.memory_bytes,
        bytes(config.get_timing_cache().serialize()) if keeps_timings else None,
    )


def network_flags(trt: Any) -> int:
    """Flags for a network with the graph's own types. TensorRT 10 needs a flag; versions without it do so always."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def capability_members(trt: Any, machine: Machine) -> list[Any]:
    """The targets of a TensorRT-RTX build; ``tensorrt`` builds for the GPU of the machine and takes none.

    Raises:
        MachineError: TensorRT-RTX does not build for this GPU.
    """
    if machine.runtime == "tensorrt":
        return []
    supported = supported_capabilities(trt)
    wanted = machine.compute_capability.split(",")
    if missing := [capability for capability in wanted if capability not in supported]:
        gpu = "" if machine.gpu_name == ANY_GPU else f", the one of the {machine.gpu_name} here"
        raise MachineError(
            f"TensorRT-RTX {machine.runtime_version} does not build for compute capability {', '.join(missing)}{gpu}; "
            f"it builds for {', '.join(supported)}: use TensorRT, {install_command('gpu')}, and --runtime tensorrt"
        )
    return [getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}") for capability in wanted]


def _parser_reason(parser: Any) -> str | None:
    """The parser's first error, with the node that it is about."""
    if not parser.num_errors:
        return None
    error = parser.get_error(0)
    return f"{error.desc()} ({error.node_operator()} node {error.node_name()!r})"


def _config(trt: Any, builder: Any, network: Any, machine: Machine, profile: Profile) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the layer report has names alone
    for batches in profiles_of(machine, profile):
        optimization = builder.create_optimization_profile()
        for entry in (network.get_input(index) for index in range(network.num_inputs)):
            optimization.set_shape(entry.name, *_shapes(batches, tuple(entry.shape)[1:]))
        config.add_optimization_profile(optimization)
    members = capability_members(trt, machine)
    if members:
        config.num_compute_capabilities = len(members)
    for index, member in enumerate(members):
        if not config.set_compute_capability(member, index):
            raise MachineError(f"TensorRT-RTX {machine.runtime_version} refuses to build for {member}")
    return config


def profiles_of(machine: Machine, profile: Profile) -> list[Profile]:
    """The optimisation profiles of a build, each as least, best and largest batch.

    TensorRT chooses kernels for the best batch of a profile, so each prepared size gets its own. TensorRT-RTX
    chooses where the engine runs, by the shapes that come.
    """
    if machine.runtime == "tensorrt-rtx":
        return [profile]
    from service.engines.batch_plan import prepared_sizes  # noqa: PLC0415

    return [(size, size, size) for size in prepared_sizes(profile[0], profile[2])]


def _shapes(profile: Profile, sides: Sequence[int]) -> list[tuple[int, ...]]:
    return [(batch, *sides) for batch in profile]


def set_timing_cache(config: Any, machine: Machine, content: bytes | None) -> bool:
    """True if this package times kernels during the build; TensorRT-RTX does so where the engine runs."""
    if machine.runtime == "tensorrt-rtx":
        return False
    cache = config.create_timing_cache(content or b"")
    # One of another GPU or driver is refused, and a damaged one gives none: its timings are measured again.
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return True


def _inspected_layers(trt: Any, logger: Any, log: Log, content: bytes) -> str:
    """The layer report by the engine inspector, which needs the GPU."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(content)
    if engine is None:
        return f"no report in the log, and the engine cannot be loaded to inspect it: {log.reason()}"
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE))


def _logger(trt: Any, log: Log) -> Any:
    errors = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        """TensorRT's base class has to be initialised by name."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(message, severity in errors)

    return Logger()
