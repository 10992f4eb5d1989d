"""Facts on the machine: processor, GPU, driver, and versions of the model's packages. All may be missing."""

from __future__ import annotations

import csv
import io
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from service.engines.base import EngineError
from service.engines.cpus import available_cpus
from service.engines.tensorrt import cuda

_PACKAGES = (
    *("ecenet", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "cuda-bindings"),
    *("tensorrt", "tensorrt-cu13-libs", "tensorrt-rtx-cu13", "nvidia-cudnn-cu13"),
)
_GPU_FIELDS = (
    *("name", "driver_version", "compute_cap", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.mem"),
    *("pcie.link.gen.max", "pcie.link.width.max", "mig.mode.current", "ecc.mode.current"),
)
_TIMEOUT_S = 20.0


def machine_facts() -> dict[str, Any]:
    """The machine, as JSON: processor, memory, system, GPUs, CUDA and packages."""
    return {
        "processor": _processor(),
        "cpus": available_cpus(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "gpus": gpus(),
        "cuda": cuda_versions(),
    }


def gpus() -> list[dict[str, str]]:
    """A row of ``nvidia-smi`` per GPU; none where it is not installed or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_gpus(done.stdout)


def parse_gpus(text: str) -> list[dict[str, str]]:
    """The rows that ``nvidia-smi --format=csv,noheader`` prints for the fields asked for."""
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return [dict(zip(_GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(_GPU_FIELDS)]


def cuda_versions() -> dict[str, str]:
    """CUDA of the driver and of the runtime, e.g. ``13.0``; empty without a usable GPU."""
    try:
        numbers = {name: int(cuda.call(f"cuda{name.capitalize()}GetVersion")) for name in ("driver", "runtime")}
    except EngineError:
        return {}
    if not numbers["driver"]:  # CUDA says 0 where there is no driver
        return {}
    return {name: f"{number // 1000}.{number % 1000 // 10}" for name, number in numbers.items()}


def gpu_bandwidth() -> float | None:
    """Bytes per second that the first GPU's memory moves at its largest clock, or None; two transfers per clock."""
    try:
        from cuda.bindings import runtime  # noqa: PLC0415

        names = runtime.cudaDeviceAttr
        clock_khz = int(cuda.call("cudaDeviceGetAttribute", names.cudaDevAttrMemoryClockRate, 0))
        bits = int(cuda.call("cudaDeviceGetAttribute", names.cudaDevAttrGlobalMemoryBusWidth, 0))
    except (ImportError, EngineError):
        return None
    return 2.0 * clock_khz * 1e3 * bits / 8 or None


def free_gpu_bytes() -> int | None:
    """Free memory of the first GPU, or None without a usable one."""
    try:
        cuda.use_gpu()
        return int(cuda.call("cudaMemGetInfo"))
    except EngineError:
        return None


def peak_memory_bytes() -> int:
    """Most memory that this process had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    return processor_name(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [])


def processor_name(lines: Iterable[str]) -> str:
    """The model's name in ``/proc/cpuinfo``, or the architecture where it has none."""
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
