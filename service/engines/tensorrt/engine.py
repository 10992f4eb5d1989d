"""TensorRT and TensorRT-RTX: engines of ``ecenet-export tensorrt`` on an NVIDIA GPU, in batches of prepared sizes.

After NVIDIA's guides: for TensorRT a CUDA graph is captured after one plain run, with one execution context per graph,
and the contexts share their memory ("Best Practices", CUDA graphs); TensorRT-RTX does the capturing itself ("Working
with RTX CUDA Graphs").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Images, Rows, check_images, output_dtype
from service.engines.batch_plan import plan_runs, prepared_sizes
from service.engines.tensorrt import cuda
from service.engines.tensorrt.lane import Lane, Streams
from service.engines.tensorrt.layer_report import Layer, parse_layers
from service.engines.tensorrt.log import tensorrt_logger
from service.model_directory.engine_store import EngineInfo, EngineStoreError
from service.model_directory.machine import EngineRuntime, MachineError, runtime_module
from service.model_directory.manifest import GraphInfo

logger = logging.getLogger(__name__)

_REBUILD = "build it again with ecenet-export tensorrt DIR --force"


class TensorRtEngine:
    """Runs an engine; implements ``service.engines.base.Engine`` and ``DirectEngine``.

    A batch is padded to the next prepared size with what the buffer held before: rows do not see each other. It has a
    lane to itself. Copies to the GPU, networks, and copies back have a stream each, so that a batch is copied while
    another one runs; events keep the three of a batch in order. A network is one CUDA graph from its second run on.

    Attributes:
        batches_at_once: Number of lanes.
    """

    batches_at_once = 2

    def __init__(
        self, info: EngineInfo, graph: GraphInfo, num_classes: int, *, max_batch_size: int | None = None
    ) -> None:
        """Load an engine that ``service.model_directory.engine_store`` lets through, and compare it with the manifest.

        Args:
            info: The engine.
            graph: The graph it was built from.
            num_classes: K.
            max_batch_size: Largest batch to prepare for; the profile's if not given.

        Raises:
            EngineError: The file was changed, the runtime refuses it, it is not what ``graph`` says, or the GPU has
                not enough memory.
        """
        self.name: EngineRuntime = info.key.machine.runtime
        self.graph = graph
        self.num_classes = num_classes
        self.info = info
        self.unfused_attentions = info.attentions - info.fused_attentions
        if self.unfused_attentions:
            counts = (self.unfused_attentions, info.attentions)
            logger.warning("%d of %d attentions of %s are not recognised as fused: it may be slow", *counts, info.path)
        self._closed = False
        cuda.use_gpu()
        with ExitStack() as owner:
            trt, runtime, engine = _load(info)
            self._trt = trt
            self._errors = tensorrt_logger(self.name).take_errors
            self._names = _check_tensors(trt, engine, graph, num_classes)
            self._profiles = _profiles(engine, self._names[0], max_batch_size)
            self.warm_up_sizes = tuple(self._profiles)
            self.max_batch_size = self.warm_up_sizes[-1]
            self._allocate(owner)
            activations = self._allocate_activations(engine, owner)
            # Freed from the end: graphs, contexts, engine, runtime, then the memory that they use.
            self._kept = [runtime, engine]
            owner.callback(self._drop)
            self._create_contexts(trt, engine, activations)
            self._prepare_contexts()
            self._run_once(owner)
            self._resources = owner.pop_all()
        self._free: SimpleQueue[Lane] = SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._order = Lock()
        self._staging = Lock()

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, h, w) float32, or labels (B, h, w) uint8, of images (B, H, W, 3) uint8, B >= 1; a copy.

        Raises:
            EngineError: Images of another shape or type, or a call of CUDA or TensorRT that failed.
        """
        check_images(images, self.graph.input_size)
        rows = np.empty((len(images), *self._rows.shape[1:]), self._rows.dtype)
        with self._staging:
            self._check_open()
            cuda.use_gpu()
            for run in plan_runs(len(images), self.warm_up_sizes):
                staged, outputs = self._images[: run.stop - run.start], self._rows[: run.stop - run.start]
                np.copyto(staged, images[run.start : run.stop])
                self._run(list(staged), list(outputs), run.size)
                rows[run.start : run.stop] = outputs
        return rows

    def infer_into(self, images: Images, outputs: Sequence[Rows]) -> None:
        """See ``DirectEngine``; images and outputs are contiguous.

        Raises:
            EngineError: Arrays of another shape or type, or a call of CUDA or TensorRT that failed.
        """
        _check_all("images", images, self._images)
        _check_all("outputs", outputs, self._rows)
        cuda.use_gpu()
        for run in plan_runs(len(images), self.warm_up_sizes):
            self._run(images[run.start : run.stop], outputs[run.start : run.stop], run.size)

    def pin(self, memory: Rows) -> None:
        """See ``DirectEngine``. Memory that cannot be pinned causes a warning: the driver then copies it twice."""
        try:
            cuda.pin(memory)
        except EngineError as error:
            logger.warning("memory of %d bytes is not pinned, its copies are slow: %s", memory.nbytes, error)

    def device_milliseconds(self, size: int, repeats: int) -> list[float]:
        """Milliseconds of each run of a prepared batch size on the GPU, without the copies to and from it."""
        cuda.use_gpu()
        with self._lane() as lane, self._order:
            self._set_shape(lane, size)
            stream = self._streams.networks
            return [cuda.timed(stream, lambda: self._execute(lane, size)) for _ in range(repeats)]

    def layers(self) -> list[Layer]:
        """The layers of the loaded engine, by TensorRT's inspector.

        Raises:
            LayerReportError: TensorRT does not report them.
        """
        engine, form = self._kept[1], self._trt.LayerInformationFormat.ONELINE
        return parse_layers(str(engine.create_engine_inspector().get_engine_information(form)))

    def close(self) -> None:
        """Wait for the batches that it has and free everything; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with self._staging:
            lanes = [self._free.get() for _ in self._lanes]
            try:
                with self._resources:  # freed also where the GPU is lost, and the calls fail
                    cuda.use_gpu()
                    self._wait_for_streams(lanes[0])
            finally:
                for lane in lanes:  # those who wait for one learn that it is too late
                    self._free.put(lane)

    def _run(self, images: Images, outputs: Sequence[Rows], size: int) -> None:
        """Run at most ``size`` images, and wait for their outputs."""
        with self._lane() as lane:
            try:
                with self._order:
                    lane.copy_in(images, self._streams)
                    self._put_network(lane, size)
                    lane.copy_out(outputs, self._streams)
                lane.wait()
            except EngineError:
                with suppress(EngineError):  # queued work still uses the caller's memory
                    self._wait_for_streams(lane)
                raise

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(f"the {self.name} engine is closed")

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        """A lane that no other batch has."""
        lane = self._free.get()
        try:
            self._check_open()
            yield lane
        finally:
            self._free.put(lane)

    def _wait_for_streams(self, lane: Lane) -> None:
        for stream in (self._streams.copies_in, self._streams.networks, self._streams.copies_out):
            lane.wait_for(stream)

    def _put_network(self, lane: Lane, size: int) -> None:
        """Put the network on its stream."""
        graph = lane.graphs.get(size)
        if graph is not None:
            cuda.launch(graph, self._streams.networks)
            return
        self._set_shape(lane, size)
        self._execute(lane, size)

    def _execute(self, lane: Lane, size: int) -> None:
        if not lane.contexts[size].execute_async_v3(int(self._streams.networks)):
            raise EngineError(f"{self.name} could not run a batch of {size}: {self._errors()}")

    def _run_once(self, owner: ExitStack) -> None:
        """Run each size in each lane, as a first run costs more, and for TensorRT make the next runs graphs."""
        for lane in self._lanes:
            for size in self.warm_up_sizes:
                self._put_network(lane, size)
                lane.wait_for(self._streams.networks)
                if self.name == "tensorrt":
                    self._capture(owner, lane, size)

    def _capture(self, owner: ExitStack, lane: Lane, size: int) -> None:
        """Capture the network as a graph. One that cannot be captured runs without, a little slower."""
        stream = self._streams.networks
        try:
            lane.graphs[size] = cuda.capture(owner, stream, lambda: self._execute(lane, size))
        except EngineError as error:
            logger.warning("batches of %d run without a CUDA graph: %s", size, error)

    def _choose_profile(self, size: int, context: Any) -> None:
        """Run a size by the kernels that were chosen for it. A context starts with the first profile."""
        stream = int(self._streams.networks)
        if (index := self._profiles[size]) and not context.set_optimization_profile_async(index, stream):
            raise EngineError(f"{self.name} refuses profile {index} for batches of {size}: {self._errors()}")

    def _set_shape(self, lane: Lane, size: int) -> None:
        """Set the next batch's shape in the context; one that serves a single size has it already."""
        shape = (size, *self._images.shape[1:])
        if not lane.contexts[size].set_input_shape(self._names[0], shape):
            raise EngineError(f"{self.name} refuses the input shape {shape}: {self._errors()}")

    def _allocate(self, owner: ExitStack) -> None:
        """Streams, lanes, and pinned memory for images that are stored elsewhere."""
        batch = self.max_batch_size
        self._streams = Streams.create(owner)
        self._images = cuda.pinned_array(owner, (batch, *self.graph.input_size, 3), np.uint8)
        rows = self.graph.output_shape(batch, self.num_classes)
        self._rows = cuda.pinned_array(owner, rows, output_dtype(self.graph))
        sizes = {"image_bytes": self._images[0].nbytes, "row_bytes": self._rows[0].nbytes, "batch": batch}
        self._lanes = [Lane(owner, **sizes) for _ in range(self.batches_at_once)]

    def _allocate_activations(self, engine: Any, owner: ExitStack) -> tuple[int, int]:
        """Address and bytes of the memory that contexts of TensorRT share; those of TensorRT-RTX have their own."""
        if self.name == "tensorrt-rtx":
            return 0, 0
        size = max(int(engine.device_memory_size_v2), 1)
        return cuda.device_memory(owner, size), size

    def _create_contexts(self, trt: Any, engine: Any, activations: tuple[int, int]) -> None:
        """Give each prepared size of each lane its context."""
        if self.name == "tensorrt-rtx":
            self._kept.append(config := _rtx_config(trt, engine))
            for lane in self._lanes:
                context = self._created(engine.create_execution_context(config))
                lane.contexts.update(dict.fromkeys(self.warm_up_sizes, context))
            return
        # A captured graph refers to state of its context, which another shape would change: one for each size. They
        # never run at the same time, all on one stream, so one block of memory is enough for all.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        for lane in self._lanes:
            for size in self.warm_up_sizes:
                lane.contexts[size] = self._created(engine.create_execution_context(strategy))
                lane.contexts[size].set_device_memory(*activations)

    def _drop(self) -> None:
        """Release TensorRT's objects, the last first."""
        for lane in self._lanes:
            lane.contexts.clear()
        while self._kept:
            self._kept.pop()

    def _created(self, context: Any) -> Any:
        if context is None:
            raise EngineError(f"{self.name} cannot create an execution context: {self._errors()}")
        return context

    def _prepare_contexts(self) -> None:
        """Fix the addresses, and check the shape of the output of each size."""
        for lane in self._lanes:
            for size, context in lane.contexts.items():
                self._choose_profile(size, context)
                for name, address in zip(self._names, (lane.images, lane.rows), strict=True):
                    if not context.set_tensor_address(name, address):
                        raise EngineError(f"{self.name} refuses the memory of {name}: {self._errors()}")
                self._set_shape(lane, size)
                self._check_output(context, size)

    def _check_output(self, context: Any, size: int) -> None:
        found, expected = tuple(context.get_tensor_shape(self._names[1])), (size, *self._rows.shape[1:])
        if found != expected:
            raise EngineError(
                f"the engine's output {self._names[1]} is {found} for a batch of {size}, the manifest says "
                f"{expected}; {_REBUILD}"
            )


def _check_all(what: str, arrays: Sequence[NDArray[Any]], batch: NDArray[Any]) -> None:
    """Compare arrays with those of a batch of the engine's own."""
    for array in arrays:
        if (array.dtype, array.shape) != (batch.dtype, batch.shape[1:]) or not array.flags.c_contiguous:
            raise EngineError(
                f"{what} are {array.dtype} {array.shape}, expected {batch.dtype} {batch.shape[1:]}, contiguous"
            )


def _load(info: EngineInfo) -> tuple[Any, Any, Any]:
    """Package, runtime and deserialised engine of an engine file. The file's content is executed."""
    try:
        plan = info.read()
        trt = runtime_module(info.key.machine.runtime)
        messages = tensorrt_logger(info.key.machine.runtime)
    except (OSError, EngineStoreError, MachineError) as error:
        raise EngineError(str(error)) from error
    messages.take_errors()  # those of earlier work have nothing to do with this engine
    try:
        runtime = trt.Runtime(messages)
    except TypeError as error:  # so the binding says that TensorRT gave none
        raise EngineError(f"{info.key.machine.runtime} cannot start: {messages.take_errors()}") from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{info.key.machine.runtime} refuses {info.path}: {messages.take_errors()}; {_REBUILD}")
    return trt, runtime, engine


def _check_tensors(trt: Any, engine: Any, graph: GraphInfo, num_classes: int) -> tuple[str, str]:
    """Names of the engine's only input and its only output, once types and shapes are the manifest's."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    types = {"float32": trt.DataType.FLOAT, "float16": trt.DataType.HALF, "uint8": trt.DataType.UINT8}
    output_type = types[output_dtype(graph).name]
    _check_only(engine, "input", inputs, trt.DataType.UINT8, (*graph.input_size, 3))
    _check_only(engine, "output", outputs, output_type, graph.output_shape(1, num_classes)[1:])
    return inputs[0], outputs[0]


def _check_only(engine: Any, kind: str, names: Sequence[str], dtype: Any, sides: Sequence[int]) -> None:
    """Check one kind of tensors. Sides that the engine knows only when it runs are -1, and are checked per size."""
    found = [(name, engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names]
    if len(found) == 1:
        _, found_dtype, shape = found[0]
        fits = len(shape) == 1 + len(sides) and all(a in (-1, b) for a, b in zip(shape[1:], sides, strict=True))
        if found_dtype == dtype and fits:
            return
    described = ", ".join(f"{name} {found_dtype.name} {shape}" for name, found_dtype, shape in found)
    raise EngineError(
        f"the engine's {kind} is {described or 'absent'}, the manifest asks for one {dtype.name} of "
        f"(B, {', '.join(map(str, sides))}); {_REBUILD}"
    )


def _profiles(engine: Any, input_name: str, limit: int | None) -> dict[int, int]:
    """The batch sizes to prepare, ascending, each with the index of its profile.

    One profile for a range of batches serves all of its sizes; several profiles serve one size each.

    Args:
        engine: The deserialised engine.
        input_name: Its input.
        limit: Largest batch that will be asked for.

    Raises:
        EngineError: There are several profiles, and one is for a range.
    """
    shapes = [engine.get_tensor_profile_shape(input_name, index) for index in range(engine.num_optimization_profiles)]
    ranges = [(int(least[0]), int(most[0])) for least, _, most in shapes]
    if len(ranges) == 1:
        return dict.fromkeys(prepared_sizes(*ranges[0], limit), 0)
    if any(least != most for least, most in ranges):
        raise EngineError(f"the engine's profiles are for batches {ranges}, expected one, or one size each; {_REBUILD}")
    sizes = {size: index for index, (size, _) in sorted(enumerate(ranges), key=lambda entry: entry[1])}
    fitting = [size for size in sizes if limit is None or size <= limit] or list(sizes)[:1]
    return {size: sizes[size] for size in fitting}


def _rtx_config(trt: Any, engine: Any) -> Any:
    """TensorRT-RTX compiles kernels where it runs, and keeps a CUDA graph per shape itself: one context serves all.

    A capture from outside could catch a kernel that is about to be replaced. Kernels are compiled at the first run of a
    size, in the warm-up, and not in the background while requests are served by slower ones.
    """
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config
