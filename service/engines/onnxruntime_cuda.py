"""ONNX Runtime on an NVIDIA GPU: batches of prepared sizes in buffers that stay on the GPU.

Each size has its own input and output there, bound once ("I/O Binding" in ONNX Runtime's documentation). cuDNN picks
its algorithms by heuristic: an exhaustive search per new shape would take longer than a request may.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Images, Rows, check_images, output_dtype
from service.engines.batch_plan import plan_runs, prepared_sizes
from service.engines.graph_tensors import check_input, check_output
from service.engines.onnxruntime_engine import cpu_obstacle, session_options, tensors
from service.model_directory.manifest import GraphInfo, Manifest

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

MAX_BATCH_SIZE = 8
_DEVICE = "cuda"
_PROVIDER = "CUDAExecutionProvider"
# float32 means float32: CUDA's default rounds the factors of products to TF32's 10 bits.
_PROVIDER_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_WAY_OUT = "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN; check the driver with nvidia-smi"
# Operators that take most of a network's time. Shape arithmetic belongs on the CPU, also of a GPU's session.
_HEAVY_OPERATORS = frozenset({"Attention", "Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"})


class OnnxRuntimeCudaEngine:
    """Runs an ONNX graph on the first GPU; implements ``service.engines.base.Engine`` and ``DirectEngine``.

    A batch is padded to the next prepared size with what the buffer held before: rows do not see each other. New shapes
    cost time, so none but the prepared ones reaches the GPU. Images are gathered while the batch before them runs.
    """

    name = "onnxruntime-cuda"
    batches_at_once = 2

    def __init__(
        self,
        model_dir: Path,
        manifest: Manifest,
        graph: GraphInfo,
        *,
        num_threads: int,
        max_batch_size: int | None = None,
    ) -> None:
        """Load the graph, compare its input and output with the manifest, and allocate the buffers of every size.

        Raises:
            EngineError: No onnxruntime-gpu, a GPU that is not there or does not take the network, a graph that the
                manifest does not describe, or too little memory: nothing runs on the CPU unasked.
        """
        self.graph = graph
        self.num_classes = manifest.num_classes
        self.warm_up_sizes = prepared_sizes(1, max_batch_size or MAX_BATCH_SIZE)
        self.max_batch_size = self.warm_up_sizes[-1]
        session = load_session(model_dir / graph.file, num_threads)
        input_name = check_input(tensors(session.get_inputs()), graph)
        output_name = check_output(tensors(session.get_outputs()), graph, self.num_classes)
        self._running = Lock()
        self._staging: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
        for _ in range(self.batches_at_once):
            self._staging.put(np.zeros((self.max_batch_size, *graph.input_size, 3), np.uint8))
        self._buffers: dict[int, _Buffers] = {}
        for size in self.warm_up_sizes:
            shape = graph.output_shape(size, self.num_classes)
            images: NDArray[np.uint8] = np.zeros((size, *graph.input_size, 3), np.uint8)
            rows = (output_name, shape, output_dtype(graph))
            self._buffers[size] = _buffers(session, (input_name, images), rows)

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, h / 4, w / 4) float32, or labels uint8, of images (B, h, w, 3) uint8, B >= 1; a copy.

        Raises:
            EngineError: The engine is closed, or images have another shape or type.
        """
        check_images(images, self.graph.input_size)
        rows = np.empty(self.graph.output_shape(len(images), self.num_classes), output_dtype(self.graph))
        self.infer_into(list(images), list(rows))
        return rows

    def infer_into(self, images: Images, outputs: Sequence[Rows]) -> None:
        """See ``DirectEngine``.

        Raises:
            EngineError: The engine is closed.
        """
        buffers = self._buffers  # a running call keeps them if the engine is closed meanwhile
        if not buffers:
            raise EngineError(f"the {self.name} engine is closed")
        staging = self._staging.get()
        try:
            for run in plan_runs(len(images), self.warm_up_sizes):
                for place, image in zip(staging, images[run.start : run.stop], strict=False):
                    np.copyto(place, image)
                with self._running:
                    rows = buffers[run.size].run(staging[: run.size])
                    for output, row in zip(outputs[run.start : run.stop], rows, strict=False):
                        np.copyto(output, row)
        finally:
            self._staging.put(staging)

    def pin(self, memory: Rows) -> None:
        """Nothing to do: images go through the engine's own memory."""

    def device_milliseconds(self, size: int, repeats: int) -> list[float]:
        """Milliseconds of each run of a prepared batch size, without the copies to and from the GPU."""
        with self._running:
            return [self._buffers[size].time() for _ in range(repeats)]

    def close(self) -> None:
        """Drop the session and the memory it holds; a second call does nothing."""
        self._buffers = {}


class _Buffers:
    """One batch size: its images and its result on the GPU."""

    def __init__(self, session: Any, binding: Any, images: Any, rows: Any) -> None:
        self._session, self._binding = session, binding
        self._images, self._rows = images, rows

    def run(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Rows of a batch of just this size; the next run may overwrite them."""
        self._images.update_inplace(images)
        self._binding.synchronize_inputs()  # the copy and the session are on different streams
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        rows: NDArray[Any] = self._rows.numpy()
        return rows

    def time(self) -> float:
        """Milliseconds of a run on the images in the buffers."""
        started = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        return (time.perf_counter() - started) * 1e3


def _buffers(session: Any, images: tuple[str, NDArray[np.uint8]], rows: tuple[str, tuple[int, ...], Any]) -> _Buffers:
    """The buffers of one size, bound to the session by name."""
    import onnxruntime  # noqa: PLC0415

    (input_name, host), (output_name, shape, dtype) = images, rows
    try:
        device_images = onnxruntime.OrtValue.ortvalue_from_numpy(host, _DEVICE, 0)
        device_rows = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, _DEVICE, 0)
    except Exception as error:
        raise EngineError(f"onnxruntime cannot allocate a batch of {len(host)} on the GPU: {error}") from error
    binding = session.io_binding()
    binding.bind_ortvalue_input(input_name, device_images)
    binding.bind_ortvalue_output(output_name, device_rows)
    return _Buffers(session, binding, device_images, device_rows)


def cuda_obstacle() -> str | None:
    """The reason why ONNX Runtime cannot use a GPU, or None; that CUDA starts shows only when a model is loaded."""
    if (obstacle := cpu_obstacle()) is not None:
        return obstacle
    import onnxruntime  # noqa: PLC0415

    if _PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA: pip install onnxruntime-gpu in its place"
    return None


def load_session(graph: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """A session whose heavy operators all run on the GPU.

    Raises:
        EngineError: There is none; the text says what ONNX Runtime missed, and what to install.
    """
    if (obstacle := cuda_obstacle()) is not None:
        raise EngineError(obstacle)
    import onnxruntime  # noqa: PLC0415

    options = session_options(num_threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    missing = preload_libraries()
    providers = [(_PROVIDER, _PROVIDER_OPTIONS), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:
        raise EngineError(f"onnxruntime cannot load {graph}: {error}{missing}") from error
    _check_provider(session, missing)
    return session


def preload_libraries() -> str:
    """Load CUDA and cuDNN as pip installed them, where the dynamic linker does not search; gives what was not found.

    ONNX Runtime prints what it misses. As the end of a sentence: empty, or the lines in brackets.
    """
    import onnxruntime  # noqa: PLC0415

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    lines = [line.strip() for line in printed.getvalue().splitlines() if line.startswith("Failed to load")]
    if not lines:
        return ""
    logger.warning("onnxruntime: %s", "; ".join(lines))
    return f" ({'; '.join(lines)})"


def nodes_by_provider(session: onnxruntime.InferenceSession) -> list[tuple[str, str]]:
    """(provider, operator) of every node of a session that records them."""
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def heavy_operators_elsewhere(nodes: Iterable[tuple[str, str]], provider: str) -> list[str]:
    """Costly operators that a session runs on another provider than the one asked for, each with its count.

    Args:
        nodes: (provider, operator) of each node.
        provider: The one asked for.
    """
    counts = Counter(operator for found, operator in nodes if found != provider and operator in _HEAVY_OPERATORS)
    return [f"{count} {operator}" for operator, count in sorted(counts.items())]


def _check_provider(session: onnxruntime.InferenceSession, missing: str) -> None:
    """Refuse a session that runs on the CPU: ONNX Runtime falls back to it without an error."""
    if session.get_providers()[0] != _PROVIDER:
        raise EngineError(
            f"onnxruntime could not start CUDA and would run on the CPU{missing}: {_WAY_OUT}, or choose "
            "--engine onnxruntime"
        )
    elsewhere = heavy_operators_elsewhere(nodes_by_provider(session), _PROVIDER)
    if elsewhere:
        raise EngineError(
            f"this onnxruntime has no CUDA kernels for {', '.join(elsewhere)} of the graph and would run them on the "
            "CPU: update onnxruntime-gpu, or build an engine with ecenet-export tensorrt"
        )
