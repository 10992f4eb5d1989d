"""A stand-in for the GPU, which keeps the promises of CUDA and of TensorRT, and no others.

Memory of the GPU is memory of the host. Work waits on its stream until somebody waits for it. Names, arguments and
their types are those of ``cuda.bindings.runtime`` and of the classes of ``tensorrt_rtx``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import itertools
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
from cuda.bindings import runtime
from numpy.typing import NDArray

from service.engines.tensorrt import cuda
from service.engines.tensorrt import engine as tensorrt_engine
from service.engines.tensorrt import log as tensorrt_log
from service.engines.tensorrt.engine import TensorRtEngine
from service.model_directory.engine_store import STATE_VARIABLE, EngineInfo, EngineKey, write_engine
from service.model_directory.machine import EngineRuntime, Machine
from service.model_directory.manifest import GraphInfo

# It comes for x86-64 only; where it is absent, the tests that need it say so.
trt: Any = importlib.import_module("tensorrt_rtx") if importlib.util.find_spec("tensorrt_rtx") else None

GRAPH = GraphInfo("model.onnx", "0" * 64, (32, 64), precision="fp16")
PLAN = b"a plan"
ACTIVATION_BYTES = 4096
BOTH: list[EngineRuntime] = ["tensorrt", "tensorrt-rtx"]
Images = NDArray[np.uint8]
Infer = Callable[[Images], NDArray[Any]]


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
        self._queue: list[Callable[[], None]] = []
        self._captured: list[Callable[[], None]] | None = None
        self._handles = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        real = getattr(runtime, name)
        if not callable(real) or inspect.isclass(real):
            return real
        effect = getattr(type(self), f"_{name}")
        return lambda *arguments: self._call(name, inspect.signature(real).bind(*arguments).args, effect)

    def put(self, stream: int, work: Callable[[], None]) -> None:
        """Put work on the stream, or into the graph that is being captured."""
        assert stream == self.stream
        (self._queue if self._captured is None else self._captured).append(work)

    def memory(self, address: int, size: int, freed_by: str) -> None:
        """Check that memory of one kind holds these bytes."""
        blocks = [(start, len(block)) for (name, start), block in self.live.items() if name == freed_by]
        assert any(start <= address and address + size <= start + length for start, length in blocks)

    def _call(self, name: str, arguments: tuple[Any, ...], effect: Callable[..., Any]) -> tuple[Any, ...]:
        self.calls.append(name)
        if self.fail_at == len(self.calls) - 1:
            if name == "cudaStreamEndCapture":  # as where the capture was invalidated: it is over all the same
                self._captured = None
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
        self.put(int(stream), lambda: ctypes.memmove(dst, src, count) and None)

    def _cudaEventRecord(self, event: Any, stream: Any) -> None:  # noqa: N802
        assert ("cudaEventDestroy", int(event)) in self.live
        assert self._captured is None

    def _cudaEventSynchronize(self, event: Any) -> None:  # noqa: N802
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:  # noqa: N802
        assert (self._captured, self._queue) == (None, [])
        self._captured = []

    def _cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        captured, self._captured = self._captured, None
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


class Held:
    """Stands for an object of TensorRT, and tells when the last reference to it is gone."""

    def __init__(self, kind: str, fake: Any, gone: Callable[[str], None]) -> None:
        self._fake = fake
        weakref.finalize(self, gone, f"drop {kind}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name)


class FakeTensorRt:
    """The package, with one engine that computes the brightness model.

    Attributes:
        batches: Batch size of each execution.
        refuse: Names of methods that give False or None, and log why.
        dtypes, shapes, modes: Of the engine's tensors, by name.
        profiles: Least, best and largest batch of each profile.
        configs: Runtime configurations that were made.
    """

    def __init__(self, cuda: FakeCuda, infer: Infer, kind: EngineRuntime) -> None:
        self.batches: list[int] = []
        self.refuse: set[str] = set()
        self.modes = {"images": trt.TensorIOMode.INPUT, "logits": trt.TensorIOMode.OUTPUT}
        self.dtypes = {"images": trt.DataType.UINT8, "logits": trt.DataType.FLOAT}
        self.shapes = {"images": (-1, 32, 64, 3), "logits": (-1, 3, 8, 16)}
        self.profiles = [(1, 4, 8)]
        self.configs: list[Any] = []
        self.contexts: list[SimpleNamespace] = []
        self._cuda, self._infer, self._logger = cuda, infer, None
        names = ["ILogger", "DataType", "TensorIOMode", "ExecutionContextAllocationStrategy"]
        if kind == "tensorrt-rtx":  # TensorRT has no such enums
            names += ["DynamicShapesKernelSpecializationStrategy", "CudaGraphStrategy"]
        vars(self).update({name: getattr(trt, name) for name in names})

    def Runtime(self, *arguments: Any) -> Any:  # noqa: N802
        (self._logger,) = checked(trt.Runtime.__init__, lambda *fitting: fitting)(*arguments)
        return self._held("runtime", trt.Runtime, deserialize_cuda_engine=self._deserialize)

    def _held(self, kind: str, cls: type, **effects: Callable[..., Any]) -> Held:
        refusing = {name: self._refusing(name, effect) for name, effect in effects.items()}
        return Held(kind, strict(cls, **refusing), self._cuda.calls.append)

    def _refusing(self, name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name not in self.refuse:
                return effect(*arguments)
            self._logger.log(trt.ILogger.Severity.ERROR, f"cannot {name}")  # type: ignore[attr-defined]
            return None if name.startswith(("create", "deserialize")) else False

        return call

    def _deserialize(self, plan: bytes) -> Held:
        assert plan == PLAN
        names = list(self.modes)
        engine = self._held(
            "engine",
            trt.ICudaEngine,
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: self.modes[name],
            get_tensor_dtype=lambda name: self.dtypes[name],
            get_tensor_shape=lambda name: trt.Dims(self.shapes[name]),
            get_tensor_profile_shape=self._profile_shape,
            create_runtime_config=self._create_config,
            create_execution_context=self._create_context,
        )
        engine._fake.num_io_tensors = len(names)
        engine._fake.num_optimization_profiles = len(self.profiles)
        engine._fake.device_memory_size_v2 = ACTIVATION_BYTES
        return engine

    def _profile_shape(self, name: str, index: int) -> list[Any]:
        return [trt.Dims((batch, *self.shapes[name][1:])) for batch in self.profiles[index]]

    def _create_config(self) -> Any:
        self.configs.append(strict(trt.IRuntimeConfig))
        return self.configs[-1]

    def _create_context(self, strategy: Any) -> Held:
        state = SimpleNamespace(strategy=strategy, memory=None, shape=None, addresses={})
        self.contexts.append(state)

        def set_input_shape(name: str, shape: tuple[int, ...]) -> bool:
            assert name == "images"
            state.shape = shape
            return True

        def set_tensor_address(name: str, address: int) -> bool:
            state.addresses[name] = address
            return True

        def get_tensor_shape(name: str) -> Any:
            return trt.Dims((state.shape[0], *self.shapes[name][1:]))

        def set_device_memory(address: int, size: int) -> None:
            self._cuda.memory(address, size, "cudaFree")
            state.memory = (address, size)

        return self._held(
            "context",
            trt.IExecutionContext,
            set_input_shape=set_input_shape,
            set_tensor_address=set_tensor_address,
            set_device_memory=set_device_memory,
            get_tensor_shape=get_tensor_shape,
            execute_async_v3=lambda stream: self._execute(state, stream),
        )

    def _execute(self, state: SimpleNamespace, stream: int) -> bool:
        if state.strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED:
            assert state.memory[1] >= ACTIVATION_BYTES
        shape, source, target = state.shape, state.addresses["images"], state.addresses["logits"]
        self._cuda.memory(source, int(np.prod(shape)), "cudaFree")

        def work() -> None:
            self.batches.append(shape[0])
            images = np.ctypeslib.as_array((ctypes.c_uint8 * int(np.prod(shape))).from_address(source)).reshape(shape)
            rows = np.ascontiguousarray(self._infer(images))
            self._cuda.memory(target, rows.nbytes, "cudaFree")
            ctypes.memmove(target, rows.ctypes.data, rows.nbytes)

        self._cuda.put(stream, work)
        return True


def strict(cls: type, **effects: Callable[..., Any]) -> Any:
    """An instance of a class of TensorRT, without names that it lacks, whose methods check their arguments."""
    fake = create_autospec(cls, instance=True, spec_set=True)
    for name in dir(cls):
        if not name.startswith("_") and callable(getattr(cls, name)):
            unexpected = AssertionError(f"{cls.__name__}.{name} was not expected")
            effect = effects.pop(name, None)
            getattr(fake, name).side_effect = checked(getattr(cls, name), effect) if effect else unexpected
    assert not effects
    return fake


def checked(method: Any, effect: Callable[..., Any]) -> Callable[..., Any]:
    """``effect``, for arguments that fit one of the signatures in the docstring of a method made with pybind11."""
    name = method.__name__
    lines = re.findall(rf"^(?:\d+\. )?{name}\(self: [^,)]*(?:, )?(.*)\) -> ", method.__doc__, re.MULTILINE)
    assert lines, method.__doc__
    signatures = [re.findall(r"(?:^|, )\w+: ([\w.]+)", line) for line in lines]

    def call(*arguments: Any) -> Any:
        for types in signatures:
            if len(types) == len(arguments) and all(map(_fits, arguments, types)):
                return effect(*arguments)
        raise TypeError(f"{name}{arguments} fits none of {signatures}")

    return call


def _fits(argument: Any, type_name: str) -> bool:
    plain = {"str": str, "typing.SupportsInt": int, "tuple": tuple, "list": list, "typing_extensions.Buffer": bytes}
    return isinstance(argument, plain.get(type_name) or getattr(trt, type_name.rpartition(".")[2], ()))


class Bench:
    """One runtime with its stand-ins, and an engine file that it may load."""

    def __init__(self, kind: EngineRuntime, info: EngineInfo, infer: Infer) -> None:
        self.graph, self.info, self.infer = GRAPH, info, infer
        self.cuda = FakeCuda()
        self.trt = FakeTensorRt(self.cuda, infer, kind)

    def load(self, graph: GraphInfo = GRAPH, max_batch_size: int | None = None) -> TensorRtEngine:
        return TensorRtEngine(self.info, graph, 3, max_batch_size=max_batch_size)

    def check(self, engine: TensorRtEngine, images: Images) -> None:
        """Rows are those of the model, in the order of the images."""
        np.testing.assert_array_equal(engine.infer(images), self.infer(images))


@pytest.fixture
def images() -> Images:
    return np.random.default_rng(3).integers(0, 256, (19, 32, 64, 3), np.uint8)


@pytest.fixture
def make_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brightness_logits: Infer
) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))

    def make(kind: EngineRuntime = "tensorrt", infer: Infer = brightness_logits) -> Bench:
        key = EngineKey(GRAPH.sha256, Machine(kind, "1"), (1, 4, 8))
        info = EngineInfo(key, "", GRAPH.input_size, "fp16", "logits", 4, 3, 3, 3, time.time())
        bench = Bench(kind, write_engine(tmp_path / "engines", PLAN, info), infer)
        monkeypatch.setattr(cuda, "_runtime", lambda: bench.cuda)
        monkeypatch.setattr(tensorrt_engine, "runtime_module", lambda _: bench.trt)
        monkeypatch.setattr(tensorrt_log, "runtime_module", lambda _: bench.trt)
        tensorrt_log.tensorrt_logger.cache_clear()
        return bench

    yield make
    tensorrt_log.tensorrt_logger.cache_clear()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture(params=BOTH)
def either(make_bench: Callable[..., Bench], request: pytest.FixtureRequest) -> Bench:
    """A bench of each runtime in turn."""
    return make_bench(request.param)


@pytest.fixture
def strict_fake() -> Callable[..., Any]:
    """Makes an instance of a class of TensorRT that refuses what the class has not."""
    return strict
