"""The machine that a TensorRT engine is tied to: the runtime, and the GPU that it finds.

Nothing is loaded at import, and no GPU is needed until one is asked for.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from service.model_directory.extras import install_command

EngineRuntime = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_RUNTIMES: tuple[EngineRuntime, ...] = get_args(EngineRuntime)
ANY_GPU = "any"

_MODULES: dict[EngineRuntime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS: dict[EngineRuntime, str] = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}


class MachineError(RuntimeError):
    """A missing runtime or GPU; one sentence that says what to do about it."""


class RuntimeMissingError(MachineError):
    """The package of a runtime that is not installed, or cannot be loaded."""


# What the two common ones mean.
_CUDA_ERRORS = {
    "cudaErrorInsufficientDriver": "no NVIDIA driver, or one older than this CUDA needs; in a container --gpus all",
    "cudaErrorNoDevice": "the driver finds no GPU; in a container --gpus all",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The runtime and the GPU that build and run engines.

    Attributes:
        runtime: ``tensorrt`` or ``tensorrt-rtx``.
        runtime_version: Its version, e.g. ``10.14.1``.
        gpu_name: The GPU, or ``any`` for an engine of TensorRT-RTX that was built without one.
        compute_capability: E.g. ``8.9``; for ``any`` those that the engine was built for, with commas.
        driver_version: CUDA version of the driver, e.g. ``13.0``; empty for ``any``.
    """

    runtime: EngineRuntime
    runtime_version: str
    gpu_name: str = ANY_GPU
    compute_capability: str = ""
    driver_version: str = ""

    def misfit(self, here: Machine) -> str | None:
        """The reason why an engine that was built on this machine does not run on that one, or None.

        One built without a GPU is compiled to the end where it runs, so driver and name of that GPU do not matter.
        """
        if (self.runtime, self.runtime_version) != (here.runtime, here.runtime_version):
            return f"built by {self.runtime} {self.runtime_version}, here is {here.runtime} {here.runtime_version}"
        if self.gpu_name == ANY_GPU:
            fits = here.gpu_name == ANY_GPU or here.compute_capability in self.compute_capability.split(",")
            wanted = f"built for compute capabilities {self.compute_capability}"
            return None if fits else f"{wanted}, the {here.gpu_name} here has {here.compute_capability}"
        if (self.gpu_name, self.compute_capability) != (here.gpu_name, here.compute_capability):
            there, present = (f"{m.gpu_name} ({m.compute_capability})" for m in (self, here))
            return f"built on {there}, here is {present}"
        if self.driver_version != here.driver_version:
            return f"built with the driver of CUDA {self.driver_version}, here is that of {here.driver_version}"
        return None


def runtime_module(runtime: EngineRuntime) -> Any:
    """The package ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        RuntimeMissingError: It is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(_MODULES[runtime])
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        command = install_command(_EXTRAS[runtime])
        raise RuntimeMissingError(f"{runtime} is not installed: {command} ({reason})") from error


def detect_machine(runtime: EngineRuntime) -> Machine:
    """The runtime and the GPU of this machine, the first that CUDA shows.

    Raises:
        MachineError: No runtime, no cuda-bindings, no driver, or no GPU.
    """
    version = str(runtime_module(runtime).__version__)
    return Machine(runtime, version, *detect_gpu())


def detect_gpu() -> tuple[str, str, str]:
    """Name, compute capability and driver of the first GPU that CUDA shows; see ``Machine``.

    Raises:
        MachineError: No cuda-bindings, no driver, or no GPU.
    """
    cuda = _cuda_runtime()
    if not _checked(cuda.cudaGetDeviceCount(), "cudaGetDeviceCount"):
        raise MachineError("CUDA finds no GPU: check nvidia-smi, and in a container --gpus all")
    properties = _checked(cuda.cudaGetDeviceProperties(0), "cudaGetDeviceProperties")
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    driver = _cuda_version(int(_checked(cuda.cudaDriverGetVersion(), "cudaDriverGetVersion")))
    return name, f"{properties.major}.{properties.minor}", driver


def detect_builder(runtime: EngineRuntime) -> Machine:
    """The target of a build: this machine's GPU, or, without one, every GPU that TensorRT-RTX supports.

    Raises:
        MachineError: No runtime, or no GPU for ``tensorrt``, whose engines are built on the GPU that runs them.
    """
    version = str(runtime_module(runtime).__version__)
    try:
        return detect_machine(runtime)
    except MachineError as error:
        if runtime == "tensorrt":
            raise MachineError(f"TensorRT builds on the GPU that will run the engine, and {error}") from error
        capabilities = supported_capabilities(runtime_module(runtime))
        return Machine(runtime, version, compute_capability=",".join(capabilities))


def supported_capabilities(rtx: Any) -> list[str]:
    """Compute capabilities that the package ``tensorrt_rtx`` builds for, e.g. ``["7.5", "8.0"]``, oldest first."""
    names = [re.fullmatch(r"SM(\d+)(\d)", name) for name in rtx.ComputeCapability.__members__]
    numbers = sorted((int(match[1]), int(match[2])) for match in names if match is not None)
    return [f"{major}.{minor}" for major, minor in numbers]


def _cuda_runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:
        raise MachineError(f"cuda-bindings cannot be loaded: pip install cuda-bindings ({error})") from error


def _checked(result: tuple[Any, ...], call: str) -> Any:
    """The value of a call of cuda-bindings, which gives (error, value)."""
    code, *values = result
    if int(code) != 0:
        name = str(getattr(code, "name", code))
        meaning = f" ({_CUDA_ERRORS[name]})" if name in _CUDA_ERRORS else ""
        raise MachineError(f"there is no usable NVIDIA GPU: {call} gave {name}{meaning}")
    return values[0]


def _cuda_version(number: int) -> str:
    """13000 as ``13.0``."""
    return f"{number // 1000}.{number % 1000 // 10}"
