"""ONNX Runtime on the CPU: any batch size up to the limit, without padding."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Rows
from service.engines.graph_tensors import Tensor, check_input, check_output
from service.engines.kept_graphs import KeptGraph
from service.engines.streams import Streams, threads_per_stream
from service.model_directory.extras import install_command
from service.model_directory.manifest import GraphInfo, Manifest

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

# On a CPU an image of a batch takes as long as one alone, or longer, and the batch waits for its last. On 2 shared CPUs
# 8 clients of benchmarks/serving.py got 22 images/s with batches of up to 2, and 16 with up to 8, at 1.7 times the p90.
_MAX_BATCH_SIZE = 2


class OnnxRuntimeEngine:
    """Runs an ONNX graph; implements ``service.engines.base.Engine``."""

    name = "onnxruntime"

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
        """Load the graph and compare its input and output with the manifest.

        Args:
            model_dir: Where the graph is.
            manifest: Its classes are those of the graph.
            graph: Any precision.
            num_threads: CPU threads of all runs together.
            num_streams: Runs at once; see ``service.engines.streams``.
            max_batch_size: Largest batch; 2, or the number of streams, if not given.
            cache_dir: Folder of optimised graphs for the next start; None to optimise at every load.

        Raises:
            EngineError: No onnxruntime, a graph that it cannot load, or one that the manifest does not describe.
        """
        self.graph = graph
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size or max(_MAX_BATCH_SIZE, num_streams)
        self.warm_up_sizes = sorted({1, self.max_batch_size})
        self.num_streams = num_streams
        share = threads_per_stream(num_threads, num_streams)
        path, kept = model_dir / graph.file, _kept(cache_dir, graph)
        session = _load(path, num_threads, kept)
        self._input_name = check_input(tensors(session.get_inputs()), graph)
        self._output_name = check_output(tensors(session.get_outputs()), graph, manifest.num_classes)
        shares = _shares(path, share, num_streams, kept)
        self._streams: Streams[onnxruntime.InferenceSession] | None = Streams(session, shares)

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, h / 4, w / 4) float32, or labels uint8, of images (B, h, w, 3) uint8."""
        streams = self._streams  # a running call keeps it if the engine is closed meanwhile
        if streams is None:
            raise EngineError("the onnxruntime engine is closed")
        return streams.infer(images, self._run)

    def _run(self, session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> Rows:
        (rows,) = session.run([self._output_name], {self._input_name: images})
        return np.asarray(rows)

    def close(self) -> None:
        """Drop the sessions and the memory they hold; a second call does nothing."""
        self._streams = None


def cpu_obstacle() -> str | None:
    """The reason why ONNX Runtime cannot be used, or None."""
    try:
        _onnxruntime()
    except EngineError as error:
        return str(error)
    return None


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """Options of a session beside those of other work: few threads that sleep while they wait, and little memory."""
    options = _onnxruntime().SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the CPU from the decoders of the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it keeps the activations twice: 280 MB in place of 140 for the bundled model
    options.log_severity_level = 3
    return options


def tensors(nodes: Iterable[Any]) -> list[Tensor]:
    """Inputs or outputs of a session, for ``graph_tensors``."""
    return [(node.name, node.type, node.shape) for node in nodes]


def _onnxruntime() -> Any:
    """The package.

    Raises:
        EngineError: It is not installed.
    """
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        command = install_command("cpu")
        raise EngineError(f"onnxruntime is not installed: {command}, with a GPU '.[gpu]' ({error})") from error
    return onnxruntime


def _kept(folder: Path | None, graph: GraphInfo) -> KeptGraph | None:
    if folder is None:
        return None
    return KeptGraph(folder, graph, "onnxruntime", _onnxruntime().__version__)


def _shares(
    graph: Path, num_threads: int, num_streams: int, kept: KeptGraph | None
) -> list[onnxruntime.InferenceSession]:
    """A session for each of several streams; those of one thread share theirs, which starts no threads."""
    if num_streams == 1:
        return []
    if num_threads == 1:
        return [_load(graph, 1, kept)] * num_streams
    return [_load(graph, num_threads, kept) for _ in range(num_streams)]


def _load(graph: Path, num_threads: int, kept: KeptGraph | None) -> onnxruntime.InferenceSession:
    """A session of the optimised graph that is kept, or of the graph, which then is optimised and kept.

    Raises:
        EngineError: No onnxruntime, or a graph that it cannot load.
    """
    if kept is None:
        return _session(graph, session_options(num_threads))
    if (optimised := kept.read()) is not None:
        options = session_options(num_threads)
        options.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return _session(optimised, options)
        except EngineError as error:
            kept.reject(str(error))
    return _optimise(graph, num_threads, kept) if kept.is_writable else _session(graph, session_options(num_threads))


def _optimise(graph: Path, num_threads: int, kept: KeptGraph) -> onnxruntime.InferenceSession:
    """A session of the graph, whose optimised form is kept if there is room for it."""
    options = session_options(num_threads)
    try:
        with TemporaryDirectory(prefix="ecenet-") as folder:
            options.optimized_model_filepath = str(file := Path(folder, "optimised.onnx"))
            session = _session(graph, options)
            kept.write(file.read_bytes())
            return session
    except (OSError, EngineError) as error:
        session = _session(graph, session_options(num_threads))
        logger.warning("the optimised graph cannot be kept, so the next start optimises again: %s", error)
        return session


def _session(graph: Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return _onnxruntime().InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        name = graph if isinstance(graph, Path) else "the optimised graph"
        raise EngineError(f"onnxruntime cannot load {name}: {error}") from error
