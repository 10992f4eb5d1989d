"""A stand-in for TensorRT on the stand-in for CUDA.

Names, arguments and their types are those of the classes of ``tensorrt_rtx``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.tensorrt.engine import TensorRtEngine
from service.model_directory.engine_store import EngineInfo
from service.model_directory.machine import EngineRuntime
from service.model_directory.manifest import GraphInfo
from tests.support.fake_cuda import FakeCuda

# It comes for x86-64 only; where it is absent, the tests that need it say so.
trt: Any = importlib.import_module("tensorrt_rtx") if importlib.util.find_spec("tensorrt_rtx") else None

GRAPH = GraphInfo("model.onnx", "0" * 64, (32, 64), precision="fp16")
PLAN = b"a plan"
ACTIVATION_BYTES = 4096
Images = NDArray[np.uint8]
Infer = Callable[[Images], NDArray[Any]]


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
        layer_report: What the engine inspector tells.
        configs: Runtime configurations that were made.
    """

    def __init__(self, cuda: FakeCuda, infer: Infer, kind: EngineRuntime) -> None:
        self.batches: list[int] = []
        self.refuse: set[str] = set()
        self.modes = {"images": trt.TensorIOMode.INPUT, "logits": trt.TensorIOMode.OUTPUT}
        self.dtypes = {"images": trt.DataType.UINT8, "logits": trt.DataType.FLOAT}
        self.shapes: dict[str, tuple[int, ...]] = {"images": (-1, 32, 64, 3), "logits": (-1, 3, 8, 16)}
        self.profiles = [(1, 4, 8)]
        self.layer_report = ""
        self.configs: list[Any] = []
        self.contexts: list[SimpleNamespace] = []
        self._cuda, self._infer, self.logger = cuda, infer, None
        names = ["ILogger", "DataType", "TensorIOMode", "ExecutionContextAllocationStrategy", "LayerInformationFormat"]
        if kind == "tensorrt-rtx":  # TensorRT has no such enums
            names += ["DynamicShapesKernelSpecializationStrategy", "CudaGraphStrategy"]
        vars(self).update({name: getattr(trt, name) for name in names})

    def Runtime(self, *arguments: Any) -> Any:  # noqa: N802
        (self.logger,) = checked(trt.Runtime.__init__, lambda *fitting: fitting)(*arguments)
        return self._held("runtime", trt.Runtime, deserialize_cuda_engine=self._deserialize)

    def _held(self, kind: str, cls: type, **effects: Callable[..., Any]) -> Held:
        refusing = {name: self._refusing(name, effect) for name, effect in effects.items()}
        return Held(kind, Strict(cls, **refusing), self._cuda.calls.append)

    def _refusing(self, name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if name not in self.refuse:
                return effect(*arguments)
            self.logger.log(trt.ILogger.Severity.ERROR, f"cannot {name}")  # type: ignore[attr-defined]
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
            create_engine_inspector=self._create_inspector,
        )
        engine._fake.num_io_tensors = len(names)
        engine._fake.num_optimization_profiles = len(self.profiles)
        engine._fake.device_memory_size_v2 = ACTIVATION_BYTES
        return engine

    def _profile_shape(self, name: str, index: int) -> list[Any]:
        return [trt.Dims((batch, *self.shapes[name][1:])) for batch in self.profiles[index]]

    def _create_config(self) -> Any:
        self.configs.append(Strict(trt.IRuntimeConfig))
        return self.configs[-1]

    def _create_inspector(self) -> Any:
        return Strict(trt.EngineInspector, get_engine_information=lambda _: self.layer_report)

    def _create_context(self, strategy: Any) -> Held:
        state = SimpleNamespace(strategy=strategy, memory=None, shape=None, addresses={}, profile=0)
        self.contexts.append(state)

        def set_optimization_profile_async(index: int, stream: int) -> bool:
            assert 0 <= index < len(self.profiles)
            assert stream in self._cuda.streams
            state.profile = index
            return True

        def set_input_shape(name: str, shape: tuple[int, ...]) -> bool:
            assert name == "images"
            least, _, most = self.profiles[state.profile]
            if not least <= shape[0] <= most:
                return False
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
            set_optimization_profile_async=set_optimization_profile_async,
            set_tensor_address=set_tensor_address,
            set_device_memory=set_device_memory,
            get_tensor_shape=get_tensor_shape,
            execute_async_v3=lambda stream: self.execute(state, stream),
        )

    def execute(self, state: SimpleNamespace, stream: int) -> bool:
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


class Strict:
    """An instance of a class of TensorRT, without names that it lacks, whose methods check their arguments."""

    def __init__(self, cls: type, **effects: Callable[..., Any]) -> None:
        methods = {name: checked(getattr(cls, name), effect) for name, effect in effects.items()}
        vars(self).update(methods, _cls=cls)

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # for isinstance
        return self._cls

    def __getattr__(self, name: str) -> Any:
        known = hasattr(self._cls, name)
        raise (AssertionError if known else AttributeError)(f"{self._cls.__name__}.{name} was not expected")

    def __setattr__(self, name: str, value: object) -> None:
        if not hasattr(self._cls, name):
            raise AttributeError(f"{self._cls.__name__} has no {name}")
        vars(self)[name] = value


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
    expected: Any = plain.get(type_name) or getattr(trt, type_name.rpartition(".")[2], ())
    return isinstance(argument, expected)


class Bench:
    """One runtime with its stand-ins, and an engine file that it may load."""

    def __init__(self, kind: EngineRuntime, info: EngineInfo, infer: Infer) -> None:
        self.graph, self.info, self.infer = GRAPH, info, infer
        self.cuda = FakeCuda()
        self.trt = FakeTensorRt(self.cuda, infer, kind)

    def load(self, graph: GraphInfo = GRAPH, max_batch_size: int | None = None) -> TensorRtEngine:
        """Load the engine; what it runs meanwhile is forgotten."""
        engine = TensorRtEngine(self.info, graph, 3, max_batch_size=max_batch_size)
        self.trt.batches.clear()
        self.cuda.launches = 0
        return engine

    def check(self, engine: TensorRtEngine, images: Images) -> None:
        """Rows are those of the model, in the order of the images."""
        np.testing.assert_array_equal(engine.infer(images), self.infer(images))
