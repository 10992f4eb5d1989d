"""ONNX Runtime on the CPU: any batch size up to the limit, without padding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Rows
from service.engines.graph_tensors import Tensor, check_input, check_output
from service.engines.streams import Streams, threads_per_stream
from service.model_directory.extras import install_command
from service.model_directory.manifest import GraphInfo, Manifest

if TYPE_CHECKING:
    import onnxruntime

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
    ) -> None:
        """Load the graph and compare its input and output with the manifest.

        Args:
            model_dir: Where the graph is.
            manifest: Its classes are those of the graph.
            graph: Any precision.
            num_threads: CPU threads of all runs together.
            num_streams: Runs at once; see ``service.engines.streams``.
            max_batch_size: Largest batch; 2, or the number of streams, if not given.

        Raises:
            EngineError: No onnxruntime, a graph that it cannot load, or one that the manifest does not describe.
        """
        self.graph = graph
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size or max(_MAX_BATCH_SIZE, num_streams)
        self.warm_up_sizes = sorted({1, self.max_batch_size})
        self.num_streams = num_streams
        path, share = model_dir / graph.file, threads_per_stream(num_threads, num_streams)
        session = _load(path, num_threads)
        self._input_name = check_input(tensors(session.get_inputs()), graph)
        self._output_name = check_output(tensors(session.get_outputs()), graph, manifest.num_classes)
        self._streams: Streams[onnxruntime.InferenceSession] | None = Streams(
            session, _shares(path, share, num_streams)
        )

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
        import onnxruntime  # noqa: F401, PLC0415
    except ImportError as error:
        return f"onnxruntime is not installed: {install_command('cpu')}, with a GPU '.[gpu]' ({error})"
    return None


def session_options(num_threads: int) -> onnxruntime.SessionOptions:
    """Options of a session beside those of other work: few threads that sleep while they wait, and little memory."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
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


def _shares(graph: Path, num_threads: int, num_streams: int) -> list[onnxruntime.InferenceSession]:
    """A session for each of several streams; those of one thread share theirs, which starts no threads."""
    if num_streams == 1:
        return []
    if num_threads == 1:
        return [_load(graph, 1)] * num_streams
    return [_load(graph, num_threads) for _ in range(num_streams)]


def _load(graph: Path, num_threads: int) -> onnxruntime.InferenceSession:
    if (obstacle := cpu_obstacle()) is not None:
        raise EngineError(obstacle)
    import onnxruntime  # noqa: PLC0415

    try:
        return onnxruntime.InferenceSession(graph, session_options(num_threads), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error
