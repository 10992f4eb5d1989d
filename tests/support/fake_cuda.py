"""A stand-in for the CUDA runtime, which keeps CUDA's promises and no others.

Memory of the GPU is memory of the host. Work waits on its stream until somebody waits for it. Names, arguments and
their types are those of ``cuda.bindings.runtime``.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from cuda.bindings import runtime

WORK_MS = 0.5  # of each piece of work on a stream


class FakeCuda:
    """The CUDA runtime on host memory, for one stream.

    Attributes:
        calls: Names of the calls, and of what TensorRT was told or let go of.
        threads: The thread of each ``cudaSetDevice``.
        fail_at: Index of the call that fails.
        live: What was made and not freed, by the function that frees it and its handle.
        launches: Graphs launched.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: list[int] = []
        self.fail_at: int | None = None
        self.live: dict[tuple[str, int], Any] = {}
        self.launches = 0
        self.stream = 0
        self._queue: list[Callable[[], object]] = []
        self.captured: list[Callable[[], object]] | None = None
        self._put, self._recorded = 0, dict[int, int]()
        self._handles = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not callable(real) or inspect.isclass(real):
            return real
        effect = getattr(type(self), f"_{name}")
        return lambda *arguments: self._call(name, inspect.signature(real).bind(*arguments).args, effect)

    def put(self, stream: int, work: Callable[[], object]) -> None:
        """Put work on the stream, or into the graph that is being captured."""
        assert stream == self.stream
        self._put += 1
        (self._queue if self.captured is None else self.captured).append(work)

    def memory(self, address: int, size: int, freed_by: str) -> None:
        """Check that memory of one kind holds these bytes."""
        blocks = [(start, len(block)) for (name, start), block in self.live.items() if name == freed_by]
        assert any(start <= address and address + size <= start + length for start, length in blocks)

    def _call(self, name: str, arguments: tuple[Any, ...], effect: Callable[..., Any]) -> tuple[Any, ...]:
        self.calls.append(name)
        if self.fail_at == len(self.calls) - 1:
            if name == "cudaStreamEndCapture":  # as where the capture was invalidated: it is over all the same
                self.captured = None
            return runtime.cudaError_t.cudaErrorMemoryAllocation, None
        return runtime.cudaError_t.cudaSuccess, effect(self, *arguments)

    def _make(self, freed_by: str, handle: Any, value: Any = None) -> Any:
        self.live[freed_by, int(handle)] = value
        return handle

    def _block(self, freed_by: str, size: int) -> int:
        block = (ctypes.c_uint8 * size)(*itertools.repeat(0xAB, size))
        return int(self._make(freed_by, ctypes.addressof(block), block))

    def _cudaSetDevice(self, device: int) -> None:  # noqa: N802
        assert device == 0
        self.threads.append(threading.get_ident())

    def _cudaMalloc(self, size: int) -> int:  # noqa: N802
        return self._block("cudaFree", size)

    def _cudaHostAlloc(self, size: int, flags: int) -> int:  # noqa: N802
        return self._block("cudaFreeHost", size)

    def _cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        assert flags == runtime.cudaStreamNonBlocking
        self.stream = next(self._handles)
        return self._make("cudaStreamDestroy", runtime.cudaStream_t(self.stream))

    def _cudaEventCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        return self._make("cudaEventDestroy", runtime.cudaEvent_t(next(self._handles)))

    def _cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> None:  # noqa: N802
        to_device = kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.memory(dst, count, "cudaFree" if to_device else "cudaFreeHost")
        self.memory(src, count, "cudaFreeHost" if to_device else "cudaFree")
        self.put(int(stream), partial(ctypes.memmove, dst, src, count))

    def _cudaEventRecord(self, event: Any, stream: Any) -> None:  # noqa: N802
        assert ("cudaEventDestroy", int(event)) in self.live
        assert self.captured is None
        self._recorded[int(event)] = self._put

    def _cudaEventElapsedTime(self, start: Any, end: Any) -> float:  # noqa: N802
        assert not self._queue
        return WORK_MS * (self._recorded[int(end)] - self._recorded[int(start)])

    def _cudaEventSynchronize(self, event: Any) -> None:  # noqa: N802
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:  # noqa: N802
        assert (self.captured, self._queue) == (None, [])
        self.captured = []

    def _cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        captured, self.captured = self.captured, None
        return self._make("cudaGraphDestroy", runtime.cudaGraph_t(next(self._handles)), captured)

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:  # noqa: N802
        work = self.live["cudaGraphDestroy", int(graph)]
        return self._make("cudaGraphExecDestroy", runtime.cudaGraphExec_t(next(self._handles)), work)

    def _cudaGraphLaunch(self, graph: Any, stream: Any) -> None:  # noqa: N802
        self.launches += 1
        for work in self.live["cudaGraphExecDestroy", int(graph)]:
            self.put(int(stream), work)

    def _free(self, handle: Any, name: str) -> None:
        del self.live[name, int(handle)]

    def _cudaFree(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaFree")

    def _cudaFreeHost(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaFreeHost")

    def _cudaStreamDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaStreamDestroy")

    def _cudaEventDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaEventDestroy")

    def _cudaGraphDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaGraphDestroy")

    def _cudaGraphExecDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaGraphExecDestroy")
