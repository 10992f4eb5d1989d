"""The few calls of the CUDA runtime that an engine makes, each checked; the owner of an allocation frees it.

Work on a stream is asynchronous: the copies below, and whatever else is put on it, are done after ``wait``.
"""

from __future__ import annotations

import ctypes
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.engines.base import EngineError

logger = logging.getLogger(__name__)

# The first GPU that CUDA shows; which that is, CUDA_VISIBLE_DEVICES and the container decide.
_DEVICE = 0


def call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; gives its value, or None for one that has none.

    Raises:
        EngineError: No cuda-bindings, or the call failed; the text names it and the error.
    """
    code, *values = getattr(cuda_runtime(), name)(*arguments)
    if int(code) != 0:
        raise EngineError(f"{name} gave {code.name}")
    return values[0] if values else None


def gpu_obstacle() -> str | None:
    """The reason why no GPU can be used, or None."""
    try:
        count = int(call("cudaGetDeviceCount"))
    except EngineError as error:
        return f"there is no usable NVIDIA GPU: {error}"
    return None if count else "CUDA finds no GPU: check nvidia-smi, and in a container --gpus all"


def use_gpu() -> None:
    """Make the GPU that of the calling thread; each thread begins without."""
    call("cudaSetDevice", _DEVICE)


def new_stream(owner: ExitStack) -> Any:
    """A stream that does not wait for the default stream, as capture demands."""
    stream = call("cudaStreamCreateWithFlags", cuda_runtime().cudaStreamNonBlocking)
    owner.callback(_release, "cudaStreamDestroy", stream)
    return stream


def new_event(owner: ExitStack) -> Any:
    """An event whose waiter sleeps: one that spins takes a CPU from the decoders of the next batch."""
    runtime = cuda_runtime()
    event = call("cudaEventCreateWithFlags", runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming)
    owner.callback(_release, "cudaEventDestroy", event)
    return event


def device_memory(owner: ExitStack, size: int) -> int:
    """Address of ``size`` bytes on the GPU, aligned to 256 bytes."""
    address = int(call("cudaMalloc", size))
    owner.callback(_release, "cudaFree", address)
    return address


def pinned_array(owner: ExitStack, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """An array in page-locked memory, which the GPU accesses directly. Gone once its owner is closed."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    address = int(call("cudaHostAlloc", size, cuda_runtime().cudaHostAllocDefault))
    owner.callback(_release, "cudaFreeHost", address)
    samples = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return samples.view(dtype).reshape(shape)


def pin(memory: NDArray[Any]) -> None:
    """Lock the pages of existing memory until it is freed, so that the GPU accesses it directly.

    Raises:
        EngineError: CUDA does not take it. Copies are right all the same, and slower.
    """
    use_gpu()
    address = memory.ctypes.data
    call("cudaHostRegister", address, memory.nbytes, cuda_runtime().cudaHostRegisterDefault)
    weakref.finalize(memory, _release, "cudaHostUnregister", address).atexit = False


def copy_to_device(address: int, array: NDArray[Any], stream: Any) -> None:
    """Put a copy of a contiguous array on a stream; of one that is pinned, or the call waits."""
    kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
    call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)


def copy_to_host(array: NDArray[Any], address: int, stream: Any) -> None:
    """Put a copy into a contiguous array on a stream; into one that is pinned, or the call waits."""
    kind = cuda_runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
    call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)


def record(event: Any, stream: Any) -> None:
    """Put an event on a stream: it happens when all work before it is done."""
    call("cudaEventRecord", event, stream)


def follow(stream: Any, event: Any) -> None:
    """Make later work of a stream begin after an event of another stream."""
    call("cudaStreamWaitEvent", stream, event, cuda_runtime().cudaEventWaitDefault)


def wait(event: Any) -> None:
    """Sleep until an event has happened; errors of the work before it are raised here."""
    call("cudaEventSynchronize", event)


def timed(stream: Any, enqueue: Callable[[], None]) -> float:
    """Milliseconds on the GPU of the work that ``enqueue`` puts on a stream, once it is done."""
    runtime = cuda_runtime()
    with ExitStack() as owner:
        begin, end = (call("cudaEventCreateWithFlags", runtime.cudaEventBlockingSync) for _ in range(2))
        for event in (begin, end):
            owner.callback(_release, "cudaEventDestroy", event)
        record(begin, stream)
        enqueue()
        record(end, stream)
        wait(end)
        return float(call("cudaEventElapsedTime", begin, end))


def capture(owner: ExitStack, stream: Any, enqueue: Callable[[], None]) -> Any:
    """A graph of the work that ``enqueue`` puts on a stream; nothing is run. Addresses and sizes are part of it.

    Raises:
        EngineError: Something of the work cannot be captured; the stream takes other work as before.
    """
    # Other threads may allocate memory meanwhile, e.g. those of a second model.
    mode = cuda_runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    with ExitStack() as scratch:
        call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        finally:  # a stream that is left capturing runs nothing
            captured = call("cudaStreamEndCapture", stream)
            scratch.callback(_release, "cudaGraphDestroy", captured)
        graph = call("cudaGraphInstantiate", captured, 0)
    owner.callback(_release, "cudaGraphExecDestroy", graph)
    return graph


def launch(graph: Any, stream: Any) -> None:
    """Put the work of a graph on a stream."""
    call("cudaGraphLaunch", graph, stream)


def _release(name: str, handle: Any) -> None:
    """Free one resource. A failure is only logged: the others are freed too, and no earlier error is hidden."""
    try:
        call(name, handle)
    except EngineError as error:
        logger.warning("a CUDA resource could not be freed: %s", error)


def cuda_runtime() -> Any:
    """NVIDIA's bindings of the CUDA runtime.

    Raises:
        EngineError: They are not installed, or cannot be loaded.
    """
    try:
        from cuda.bindings import runtime  # noqa: PLC0415
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"cuda-bindings cannot be loaded: pip install cuda-bindings ({error})") from error
    return runtime
