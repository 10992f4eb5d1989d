"""Detection of the machine that engines are tied to, its errors, and the machines that an engine fits."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cuda.bindings import runtime as cudart

from service.model_directory import machine
from service.model_directory.machine import (
    ANY_GPU,
    EngineRuntime,
    Machine,
    MachineError,
    detect_builder,
    detect_machine,
    runtime_module,
    supported_capabilities,
)

L4 = Machine("tensorrt", "10.14.1", "NVIDIA L4", "8.9", "13.0")
PORTABLE = Machine("tensorrt-rtx", "1.7.1", ANY_GPU, "7.5,8.9,12.0")


class FakeCuda(SimpleNamespace):
    """Stand-in of ``cuda.bindings.runtime``, whose functions give (error, value)."""

    def __init__(self, devices: int = 1, error: int = 0, name: bytes | str = b"NVIDIA L4") -> None:
        properties = SimpleNamespace(name=name, major=8, minor=9)
        super().__init__(
            cudaGetDeviceCount=lambda: (error, devices),
            cudaGetDeviceProperties=lambda _: (0, properties),
            cudaDriverGetVersion=lambda: (0, 13020),
        )


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Results of imports in ``machine`` by name: modules, or errors to raise."""
    found: dict[str, Any] = {}

    def import_module(name: str) -> Any:
        package = found.get(name, ImportError(f"No module named '{name}'"))
        if isinstance(package, Exception):
            raise package
        return package

    monkeypatch.setattr(machine, "importlib", SimpleNamespace(import_module=import_module))
    return found


def fake_runtime(version: str, *members: str) -> SimpleNamespace:
    return SimpleNamespace(__version__=version, ComputeCapability=SimpleNamespace(__members__=dict.fromkeys(members)))


def test_runtime_gpu_and_driver_are_found(packages: dict[str, Any]) -> None:
    packages |= {"tensorrt": fake_runtime("10.14.1"), "cuda.bindings.runtime": FakeCuda()}
    expected = Machine("tensorrt", "10.14.1", "NVIDIA L4", "8.9", "13.2")
    assert detect_machine("tensorrt") == expected
    packages["cuda.bindings.runtime"] = FakeCuda(name="NVIDIA L4")
    assert detect_machine("tensorrt") == expected
    assert detect_builder("tensorrt") == expected


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({}, r"tensorrt is not installed: pip install '\.\[gpu\]'"),
        ({"tensorrt": OSError("libnvinfer.so.10: cannot open")}, r"tensorrt is not installed.*libnvinfer\.so\.10"),
        ({"tensorrt": fake_runtime("10")}, "cuda-bindings cannot be loaded: pip install cuda-bindings"),
        (
            {"tensorrt": fake_runtime("10"), "cuda.bindings.runtime": FakeCuda(0, error=35)},
            "no usable NVIDIA GPU: cudaGetDeviceCount gave 35",
        ),
        (
            {"tensorrt": fake_runtime("10"), "cuda.bindings.runtime": FakeCuda(0, error=cudart.cudaError_t(35))},
            r"gave cudaErrorInsufficientDriver \(no NVIDIA driver, or one older .* in a container --gpus all\)",
        ),
        (
            {"tensorrt": fake_runtime("10"), "cuda.bindings.runtime": FakeCuda(0, error=cudart.cudaError_t(100))},
            r"gave cudaErrorNoDevice \(the driver finds no GPU; in a container --gpus all\)",
        ),
        ({"tensorrt": fake_runtime("10"), "cuda.bindings.runtime": FakeCuda(0)}, "CUDA finds no GPU: check nvidia-smi"),
    ],
)
def test_what_is_missing_is_told(found: dict[str, Any], message: str, packages: dict[str, Any]) -> None:
    packages |= found
    with pytest.raises(MachineError, match=message):
        detect_machine("tensorrt")
    with pytest.raises(MachineError, match=message):
        detect_builder("tensorrt")


def test_tensorrt_needs_the_gpu_to_build_and_rtx_builds_for_all_without_one(packages: dict[str, Any]) -> None:
    packages |= {
        "tensorrt": fake_runtime("10.14.1"),
        "tensorrt_rtx": fake_runtime("1.8", "NONE", "SM120", "CURRENT", "SM75", "SM89"),
        "cuda.bindings.runtime": FakeCuda(0),
    }
    with pytest.raises(
        MachineError, match="TensorRT builds on the GPU that will run the engine, and CUDA finds no GPU"
    ):
        detect_builder("tensorrt")
    assert detect_builder("tensorrt-rtx") == Machine("tensorrt-rtx", "1.8", ANY_GPU, "7.5,8.9,12.0")
    packages["cuda.bindings.runtime"] = FakeCuda()
    assert detect_builder("tensorrt-rtx") == Machine("tensorrt-rtx", "1.8", "NVIDIA L4", "8.9", "13.2")


def test_rtx_is_installed_here_and_names_its_gpus() -> None:
    rtx = runtime_module("tensorrt-rtx")
    assert supported_capabilities(rtx) == ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_tensorrt_where_there_is_none_is_an_error() -> None:
    with pytest.raises(MachineError, match=r"tensorrt is not installed: pip install '\.\[gpu\]'"):
        detect_builder("tensorrt")


@pytest.mark.parametrize(
    ("built", "here", "reason"),
    [
        (L4, L4, None),
        (L4, replace(L4, runtime_version="10.15.0"), "built by tensorrt 10.14.1, here is tensorrt 10.15.0"),
        (L4, replace(L4, runtime="tensorrt-rtx"), "built by tensorrt 10.14.1, here is tensorrt-rtx 10.14.1"),
        (L4, replace(L4, gpu_name="NVIDIA A10"), r"built on NVIDIA L4 (8.9), here is NVIDIA A10 (8.9)"),
        (L4, replace(L4, compute_capability="9.0"), r"built on NVIDIA L4 (8.9), here is NVIDIA L4 (9.0)"),
        (L4, replace(L4, driver_version="12.4"), "built with the driver of CUDA 13.0, here is that of 12.4"),
        (PORTABLE, replace(PORTABLE, gpu_name="RTX 4090", compute_capability="8.9", driver_version="13.0"), None),
        (PORTABLE, PORTABLE, None),
        (
            PORTABLE,
            replace(PORTABLE, gpu_name="H100", compute_capability="9.0"),
            "built for compute capabilities 7.5,8.9,12.0, the H100 here has 9.0",
        ),
        (
            PORTABLE,
            replace(PORTABLE, gpu_name="X", compute_capability="12"),
            "built for compute capabilities 7.5,8.9,12.0, the X here has 12",
        ),
    ],
)
def test_an_engine_fits_one_machine(built: Machine, here: Machine, reason: str | None) -> None:
    assert built.misfit(here) == reason


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_package_that_fails_without_a_text_is_told(runtime: EngineRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    name = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[runtime]

    def fail(_: str) -> ModuleType:
        raise OSError

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MachineError, match=rf"{runtime} is not installed: .*\(OSError\)"):
        runtime_module(runtime)
