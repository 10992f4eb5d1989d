"""CUDA calls are checked, and what was allocated is freed, once; arguments are those that cuda-bindings takes."""

from __future__ import annotations

import ctypes
import inspect
import logging
import sys
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from service.engines.base import EngineError
from service.engines.tensorrt import cuda

runtime = pytest.importorskip("cuda.bindings.runtime")
OUT_OF_MEMORY = runtime.cudaError_t.cudaErrorMemoryAllocation
SUCCESS = runtime.cudaError_t.cudaSuccess


class Calls:
    """Answers every function of the CUDA runtime, if its arguments fit: with the next of ``values``, or with failure.

    Attributes:
        made: Name and arguments of each call.
        failing: Names of functions that fail.
    """

    def __init__(self, **values: Any) -> None:
        self.made: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: set[str] = set()
        self.values = values

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not callable(real) or inspect.isclass(real):
            return real

        def answer(*arguments: Any) -> tuple[Any, ...]:
            inspect.signature(real).bind(*arguments)
            self.made.append((name, arguments))
            return (OUT_OF_MEMORY, None) if name in self.failing else (SUCCESS, self.values.get(name))

        return answer

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.made]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    fake = Calls(
        cudaMalloc=0x1000,
        cudaStreamCreateWithFlags=runtime.cudaStream_t(2),
        cudaEventCreateWithFlags=runtime.cudaEvent_t(3),
        cudaStreamEndCapture=runtime.cudaGraph_t(4),
        cudaGraphInstantiate=runtime.cudaGraphExec_t(5),
        cudaGetDeviceCount=1,
    )
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: fake)
    return fake


def test_failure_is_an_error_with_the_names_of_call_and_error(calls: Calls) -> None:
    calls.failing = {"cudaMalloc"}
    with pytest.raises(EngineError, match=r"^cudaMalloc gave cudaErrorMemoryAllocation$"):
        cuda.call("cudaMalloc", 10)
    assert cuda.call("cudaSetDevice", 0) is None
    assert cuda.call("cudaGetDeviceCount") == 1


def test_what_was_allocated_is_freed_last_first_and_once(calls: Calls) -> None:
    with ExitStack() as owner:
        cuda.new_stream(owner)
        cuda.new_event(owner)
        assert cuda.device_memory(owner, 100) == 0x1000
        made = len(calls.made)
    assert calls.names[made:] == ["cudaFree", "cudaEventDestroy", "cudaStreamDestroy"]
    assert [int(*arguments) for _, arguments in calls.made[made:]] == [0x1000, 3, 2]
    owner.close()
    assert len(calls.made) == made + 3


def test_what_cannot_be_freed_is_logged_and_the_rest_is_freed(calls: Calls, caplog: pytest.LogCaptureFixture) -> None:
    calls.failing = {"cudaEventDestroy"}
    with ExitStack() as owner:
        cuda.new_stream(owner)
        cuda.new_event(owner)
    assert calls.names[-1] == "cudaStreamDestroy"
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "a CUDA resource could not be freed: cudaEventDestroy gave cudaErrorMemoryAllocation")
    ]


def test_nothing_is_freed_that_was_not_allocated(calls: Calls) -> None:
    calls.failing = {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"}
    with ExitStack() as owner:
        for allocate in (
            lambda: cuda.device_memory(owner, 1),
            lambda: cuda.pinned_array(owner, (1,), np.uint8),
            lambda: cuda.new_stream(owner),
            lambda: cuda.new_event(owner),
        ):
            with pytest.raises(EngineError, match="gave cudaErrorMemoryAllocation"):
                allocate()
    assert len(calls.made) == 4


def test_pinned_array_is_the_memory_that_was_allocated(calls: Calls) -> None:
    memory = (ctypes.c_uint8 * 24)(*range(24))
    address = ctypes.addressof(memory)
    calls.values["cudaHostAlloc"] = address
    with ExitStack() as owner:
        array = cuda.pinned_array(owner, (2, 3), np.float32)
        assert (array.shape, array.dtype, array.nbytes, array.ctypes.data) == ((2, 3), np.float32, 24, address)
        assert array.tobytes() == bytes(range(24))
        array[1, 2] = 1.0
        assert bytes(memory)[-4:] == np.float32(1).tobytes()
        cuda.copy_to_device(0x1000, array[:1], runtime.cudaStream_t(2))
        cuda.copy_to_host(array[1:], 0x2000, runtime.cudaStream_t(2))
    assert calls.made[0] == ("cudaHostAlloc", (24, runtime.cudaHostAllocDefault))
    kinds = runtime.cudaMemcpyKind
    assert calls.made[1][1][:4] == (0x1000, address, 12, kinds.cudaMemcpyHostToDevice)
    assert calls.made[2][1][:4] == (address + 12, 0x2000, 12, kinds.cudaMemcpyDeviceToHost)
    assert calls.made[3] == ("cudaFreeHost", (address,))


def test_capture_gives_a_graph_that_its_owner_frees(calls: Calls) -> None:
    stream = runtime.cudaStream_t(2)
    with ExitStack() as owner:
        graph = cuda.capture(owner, stream, lambda: cuda.call("cudaSetDevice", 0))
        assert int(graph) == 5
        assert calls.names == [
            "cudaStreamBeginCapture",
            "cudaSetDevice",
            "cudaStreamEndCapture",
            "cudaGraphInstantiate",
            "cudaGraphDestroy",
        ]
        assert calls.made[0][1][1] == runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        cuda.launch(graph, stream)
    assert calls.names[-2:] == ["cudaGraphLaunch", "cudaGraphExecDestroy"]


@pytest.mark.parametrize(
    ("failing", "freed"),
    [("cudaSetDevice", 1), ("cudaStreamEndCapture", 0), ("cudaGraphInstantiate", 1), ("cudaStreamBeginCapture", 0)],
)
def test_failed_capture_ends_and_leaves_nothing(calls: Calls, failing: str, freed: int) -> None:
    calls.failing = {failing}
    with ExitStack() as owner, pytest.raises(EngineError, match=f"{failing} gave cudaErrorMemoryAllocation"):
        cuda.capture(owner, runtime.cudaStream_t(2), lambda: cuda.call("cudaSetDevice", 0))
    assert calls.names.count("cudaStreamEndCapture") == (failing != "cudaStreamBeginCapture")
    assert calls.names.count("cudaGraphDestroy") == freed
    assert "cudaGraphExecDestroy" not in calls.names


def test_waiter_sleeps(calls: Calls) -> None:
    with ExitStack() as owner:
        stream, event = cuda.new_stream(owner), cuda.new_event(owner)
        cuda.record(event, stream)
        cuda.wait(event)
    assert calls.made[0] == ("cudaStreamCreateWithFlags", (runtime.cudaStreamNonBlocking,))
    (flags,) = calls.made[1][1]
    assert flags & runtime.cudaEventBlockingSync
    assert calls.made[2:4] == [("cudaEventRecord", (event, stream)), ("cudaEventSynchronize", (event,))]


def test_machine_without_a_gpu_is_told(calls: Calls) -> None:
    assert cuda.gpu_obstacle() is None
    calls.values["cudaGetDeviceCount"] = 0
    assert "CUDA finds no GPU" in str(cuda.gpu_obstacle())
    calls.failing = {"cudaGetDeviceCount"}
    assert cuda.gpu_obstacle() == ("there is no usable NVIDIA GPU: cudaGetDeviceCount gave cudaErrorMemoryAllocation")


def test_missing_cuda_bindings_are_told_with_the_command_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="pip install cuda-bindings"):
        cuda.call("cudaGetDeviceCount")


@pytest.mark.skipif(
    runtime.cudaGetDeviceCount()[0] != runtime.cudaError_t.cudaErrorInsufficientDriver,
    reason="there is a driver, which would take the made-up addresses for real",
)
def test_cuda_bindings_take_every_argument() -> None:
    """Without a driver each call converts its arguments, or raises TypeError, and then fails."""
    stream, event, graph = runtime.cudaStream_t(2), runtime.cudaEvent_t(3), runtime.cudaGraphExec_t(5)
    array = np.zeros(8, np.uint8)
    with ExitStack() as owner:
        for call in (
            cuda.use_gpu,
            lambda: cuda.new_stream(owner),
            lambda: cuda.new_event(owner),
            lambda: cuda.device_memory(owner, 8),
            lambda: cuda.pinned_array(owner, (8,), np.uint8),
            lambda: cuda.copy_to_device(0x1000, array, stream),
            lambda: cuda.copy_to_host(array, 0x1000, stream),
            lambda: cuda.record(event, stream),
            lambda: cuda.follow(stream, event),
            lambda: cuda.wait(event),
            lambda: cuda.call("cudaHostRegister", array.ctypes.data, array.nbytes, runtime.cudaHostRegisterDefault),
            lambda: cuda.call("cudaHostUnregister", array.ctypes.data),
            lambda: cuda.capture(owner, stream, lambda: None),
            lambda: cuda.launch(graph, stream),
            lambda: cuda.call("cudaEventSynchronize", event),
            lambda: cuda.call("cudaStreamEndCapture", stream),
            lambda: cuda.call("cudaGraphInstantiate", runtime.cudaGraph_t(4), 0),
            lambda: cuda.call("cudaGraphDestroy", runtime.cudaGraph_t(4)),
            lambda: cuda.call("cudaGraphExecDestroy", graph),
            lambda: cuda.call("cudaEventDestroy", event),
            lambda: cuda.call("cudaStreamDestroy", stream),
            lambda: cuda.call("cudaFree", 0x1000),
            lambda: cuda.call("cudaFreeHost", 0x1000),
        ):
            with pytest.raises(EngineError, match="gave cudaErrorInsufficientDriver"):
                call()
