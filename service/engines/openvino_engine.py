"""OpenVINO on the CPU: batches of any size, image by image.

It compiles graphs whose batch is one best. With the bundled model on two cores a free batch took 1.1 times as
long and twice the memory, and two images together saved nothing. So rows of a batch are those of single calls, exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Rows, check_images, output_dtype
from service.engines.graph_tensors import ONNX_TYPES, Tensor, check_input, check_output
from service.engines.kept_graphs import KeptGraph
from service.engines.runtimes import PrecisionName
from service.engines.streams import Streams, threads_per_stream
from service.model_directory.extras import install_command
from service.model_directory.manifest import GraphInfo, Manifest


class OpenVinoEngine:
    """Runs an ONNX graph; implements ``service.engines.base.Engine``."""

    name = "openvino"

    def __init__(
        self,
        model_dir: Path,
        manifest: Manifest,
        graph: GraphInfo,
        *,
        num_threads: int,
        num_streams: int = 1,
        max_batch_size: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Load the graph, compare its input and output with the manifest, and compile it.

        Args:
            model_dir: Where the graph is.
            manifest: Its classes are those of the graph.
            graph: In bf16 it is the float32 one, computed in bf16.
            num_threads: CPU threads of all runs together; never more than CPUs that the process may use.
            num_streams: Runs at once; see ``service.engines.streams``.
            max_batch_size: Largest batch; the number of streams if not given, as a larger one is no faster.
            cache_dir: Folder of compiled graphs for the next start; None to compile at every load.

        Raises:
            EngineError: No openvino, a graph that it cannot load, one that the manifest does not describe, or a
                processor that does not compute in bf16.
        """
        self.graph = graph
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size or num_streams
        self.warm_up_sizes = sorted({1, self.max_batch_size})
        self.num_streams = num_streams
        threads_per_stream(num_threads, num_streams)
        source = _Source(model_dir / graph.file, graph, self.num_classes, cache_dir)
        (alone,), *shares = source.compile_all(num_threads, sorted({1, num_streams}))
        self._streams: Streams[Any] | None = Streams(alone, shares[0] if shares else [])

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, h / 4, w / 4) float32, or labels uint8, of images (B, h, w, 3) uint8, B >= 1; a copy.

        Raises:
            EngineError: The engine is closed, or images have another shape or type.
        """
        streams = self._streams  # a running call keeps it if the engine is closed meanwhile
        if streams is None:
            raise EngineError("the openvino engine is closed")
        check_images(images, self.graph.input_size)
        return streams.infer(images, self._run)

    def _run(self, request: Any, images: NDArray[np.uint8]) -> Rows:
        rows: Rows = np.empty(self.graph.output_shape(len(images), self.num_classes), output_dtype(self.graph))
        for index in range(len(images)):
            rows[index] = request.infer([images[index : index + 1]], share_outputs=True)[0][0]
        return rows

    def close(self) -> None:
        """Drop the compiled graphs and the memory they hold; a second call does nothing."""
        self._streams = None


def openvino_obstacle(precision: PrecisionName) -> str | None:
    """The reason why OpenVINO cannot be used, or cannot compute in a precision, or None."""
    try:
        core = _core(_openvino())
    except EngineError as error:
        return str(error)
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and "BF16" not in capabilities:
        return _no_bf16(", ".join(capabilities))
    return None


def _no_bf16(capabilities: str) -> str:
    return f"this processor does not compute in bf16 ({capabilities} only); choose --precision fp32"


def _openvino() -> Any:
    """The package without its telemetry, which would report its import to a host of Google.

    Raises:
        EngineError: It is not installed, or cannot be loaded.
    """
    # An import of it then raises. openvino has a stub for that case, and leaves no files in the user's home either.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise EngineError(f"openvino is not installed: {install_command('cpu')} ({error})") from error
    return openvino


@cache
def _core(openvino: Any) -> Any:
    """The one ``Core`` of the process, which lives as long as that.

    Its CPU plugin gives the thread that loads it a stack for signals, and takes the memory away with the last ``Core``
    but not the stack: the next signal to that thread would end the process (seen with 2026.4.1).
    """
    return openvino.Core()


class _Source:
    """A graph to compile: the compiled one that is kept, or the file."""

    def __init__(self, path: Path, graph: GraphInfo, num_classes: int, cache_dir: Path | None) -> None:
        self._path = path
        self._graph = graph
        self._num_classes = num_classes
        self._kept = None if cache_dir is None else KeptGraph(cache_dir, graph, "openvino", _openvino().__version__)

    def compile_all(self, num_threads: int, stream_counts: Sequence[int]) -> list[list[Any]]:
        """For each number of streams what ``compile`` gives.

        Kept graphs are imported at the same time: an import keeps one CPU busy for half a second.
        """
        if self._kept is None or self._kept.read() is None:
            return [self.compile(num_threads, count) for count in stream_counts]
        with ThreadPoolExecutor(len(stream_counts), thread_name_prefix="import") as pool:
            return list(pool.map(partial(self.compile, num_threads), stream_counts))

    def compile(self, num_threads: int, num_streams: int) -> list[Any]:
        """A request per stream; together they use the threads.

        Raises:
            EngineError: The file is not a graph, or another one; OpenVINO has no kernel for a part of it, or does not
                compute in the graph's precision.
        """
        precision = "bf16" if self._graph.precision == "bf16" else "f32"  # for all that the graph does not quantise
        options = {
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": num_threads,
            "INFERENCE_PRECISION_HINT": precision,  # its own choice depends on the processor
            # Replicas on one machine, each cut by its quota, would be bound to the same first CPUs.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = self._import(options) or self._compile(options)
        found = compiled.get_property("INFERENCE_PRECISION_HINT")
        if found.get_type_name() != precision:
            raise EngineError(_no_bf16(found.get_type_name()))
        return [compiled.create_infer_request() for _ in range(num_streams)]

    def _import(self, options: Mapping[str, Any]) -> Any | None:
        """The graph that is kept, ready to run, or None."""
        if self._kept is None or (content := self._kept.read()) is None:
            return None
        try:
            return _core(_openvino()).import_model(BytesIO(content), "CPU", options)
        except RuntimeError as error:
            self._kept.reject(_reason(error))
            return None

    def _compile(self, options: Mapping[str, Any]) -> Any:
        """The graph of the file, compiled, and kept if there is a folder for it."""
        model = self._read()
        try:
            compiled = _core(_openvino()).compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot compile {self._graph.file}: {_reason(error)}") from error
        if self._kept is not None and self._kept.is_writable:
            self._kept.write(compiled.export_model().getvalue())
        return compiled

    def _read(self) -> Any:
        """The graph for one image, after a check against the manifest."""
        try:
            model = _core(_openvino()).read_model(self._path)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot load {self._path}: {_reason(error)}") from error
        check_input(_tensors(model.inputs), self._graph)
        check_output(_tensors(model.outputs), self._graph, self._num_classes)
        model.reshape([1, *self._graph.input_size, 3])
        return model


def _tensors(ports: Iterable[Any]) -> list[Tensor]:
    return [
        (port.any_name, _type_name(port), [side.get_length() if side.is_static else "?" for side in port.partial_shape])
        for port in ports
    ]


def _type_name(port: Any) -> str:
    name = str(port.element_type.to_dtype().name)
    return ONNX_TYPES.get(name, name)


def _reason(error: RuntimeError) -> str:
    """The message of OpenVINO, without the source locations before it."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or lines)
