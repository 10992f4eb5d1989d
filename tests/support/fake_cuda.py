"""A stand-in for the CUDA runtime, which keeps CUDA's promises and no others.

Memory of the GPU is memory of the host. Work waits on its stream until somebody waits for an event behind it; which of
the streams goes on first is up to the test, as far as events leave a choice. Names, arguments and their types are those
of ``cuda.bindings.runtime``.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cuda.bindings import runtime

WORK_MS = 0.5  # of each piece of work on a stream


@dataclass(frozen=True, slots=True)
class _Step:
    """Something on a stream: work, an event that happens, or a wait for the ``number``-th record of an event."""

    kind: Literal["work", "record", "wait"]
    work: Callable[[], object] | None = None
    event: int = 0
    number: int = 0

    def is_due(self, cuda: FakeCuda) -> bool:
        return self.kind != "wait" or cuda._has_happened(self.event, self.number)


class FakeCuda:
    """The CUDA runtime on host memory.

    Attributes:
        before_wait: Called before each wait of a thread for an event.
        is_eager: Whether streams go as far as they can whenever somebody waits, or no further than that asks for.
        preferred: Streams that go on before the others, by their place in the order of their creation.
        streams: Handles of the streams, in the order of their creation.
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
        self.before_wait: Callable[[], object] | None = None
        self.is_eager = False
        self.preferred: tuple[int, ...] = ()
        self.streams: list[int] = []
        self._queues: dict[int, deque[_Step]] = {}
        self.captured: list[Callable[[], object]] | None = None
        self._capturing = 0
        self._done, self._recorded = 0, dict[int, int]()
        self._records: dict[int, int] = {}
        self._happened: dict[int, int] = {}
        self._lock = threading.RLock()
        self._handles = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not callable(real) or inspect.isclass(real):
            return real
        effect = getattr(type(self), f"_{name}")
        return lambda *arguments: self._call(name, inspect.signature(real).bind(*arguments).args, effect)

    def put(self, stream: int, work: Callable[[], object]) -> None:
        """Put work on a stream, or into the graph that is being captured from it."""
        if self.captured is not None and stream == self._capturing:
            self.captured.append(work)
        else:
            self._queues[stream].append(_Step("work", work))

    def _go_on(self, event: int) -> None:
        """Do what is on the streams until an event has happened, and further where that is asked for."""
        while self._step(event):
            pass
        assert self._has_happened(event, self._records.get(event, 0)), "the event never happens"

    def _step(self, event: int) -> bool:
        """Do one step of one stream; gives False when there is nothing left to do."""
        is_over = self._has_happened(event, self._records.get(event, 0))
        if is_over and not self.is_eager:
            return False
        order = [self.streams[place] for place in self.preferred]
        for stream in (*order, *(stream for stream in self.streams if stream not in order)):
            queue = self._queues.get(stream)
            if queue and queue[0].is_due(self):
                self._do(queue.popleft())
                return True
        return False

    def _do(self, step: _Step) -> None:
        if step.kind == "work":
            assert step.work is not None
            step.work()
            self._done += 1
        elif step.kind == "record":
            self._happened[step.event] = step.number
            self._recorded[step.event] = self._done

    def _has_happened(self, event: int, number: int) -> bool:
        return self._happened.get(event, 0) >= number

    def memory(self, address: int, size: int, freed_by: str) -> None:
        """Check that memory of one kind holds these bytes."""
        blocks = [(start, len(block)) for (name, start), block in self.live.items() if name == freed_by]
        assert any(start <= address and address + size <= start + length for start, length in blocks)

    def _call(self, name: str, arguments: tuple[Any, ...], effect: Callable[..., Any]) -> tuple[Any, ...]:
        if name == "cudaEventSynchronize" and self.before_wait is not None:
            self.before_wait()
        with self._lock:
            return self._answer(name, arguments, effect)

    def _answer(self, name: str, arguments: tuple[Any, ...], effect: Callable[..., Any]) -> tuple[Any, ...]:
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
        stream = next(self._handles)
        self.streams.append(stream)
        self._queues[stream] = deque()
        return self._make("cudaStreamDestroy", runtime.cudaStream_t(stream))

    def _cudaEventCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        return self._make("cudaEventDestroy", runtime.cudaEvent_t(next(self._handles)))

    def _cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> None:  # noqa: N802
        to_device = kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.memory(dst if to_device else src, count, "cudaFree")
        self.put(int(stream), partial(ctypes.memmove, dst, src, count))

    def _cudaEventRecord(self, event: Any, stream: Any) -> None:  # noqa: N802
        assert ("cudaEventDestroy", int(event)) in self.live
        assert self.captured is None
        self._records[int(event)] = number = self._records.get(int(event), 0) + 1
        self._queues[int(stream)].append(_Step("record", event=int(event), number=number))

    def _cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:  # noqa: N802
        assert flags == runtime.cudaEventWaitDefault
        step = _Step("wait", event=int(event), number=self._records.get(int(event), 0))
        self._queues[int(stream)].append(step)

    def _cudaEventElapsedTime(self, start: Any, end: Any) -> float:  # noqa: N802
        return WORK_MS * (self._recorded[int(end)] - self._recorded[int(start)])

    def _cudaEventSynchronize(self, event: Any) -> None:  # noqa: N802
        self._go_on(int(event))

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:  # noqa: N802
        assert self.captured is None
        self._capturing = int(stream)
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

    def _cudaHostRegister(self, address: int, size: int, flags: int) -> None:  # noqa: N802
        assert flags == runtime.cudaHostRegisterDefault
        self._make("cudaHostUnregister", address, size)

    def _cudaHostUnregister(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaHostUnregister")

    def _cudaStreamDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaStreamDestroy")

    def _cudaEventDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaEventDestroy")

    def _cudaGraphDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaGraphDestroy")

    def _cudaGraphExecDestroy(self, handle: Any) -> None:  # noqa: N802
        self._free(handle, "cudaGraphExecDestroy")
