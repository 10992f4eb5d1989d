"""ONNX Runtime on the CPU: any batch size up to the limit, without padding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model_export.manifest import GRAPH_NAME, Manifest
from service.engines.base import EngineError

if TYPE_CHECKING:
    import onnxruntime


# On a CPU an image of a batch takes as long as one alone, or longer, and the batch waits for its last. On 2 shared CPUs
# 8 clients of benchmarks/serving.py got 22 images/s with batches of up to 2, and 16 with up to 8, at 1.7 times the p90.
_MAX_BATCH_SIZE = 2


class OnnxRuntimeEngine:
    """Runs ``model.onnx``; implements ``service.engines.base.Engine``."""

    name = "onnxruntime"

    def __init__(
        self, model_dir: Path, manifest: Manifest, *, num_threads: int, max_batch_size: int | None = None
    ) -> None:
        """Load the graph and compare its input and output with the manifest.

        Raises:
            EngineError: No onnxruntime, a graph that it cannot load, or one that the manifest does not describe.
        """
        self.input_size = manifest.input_size
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size or _MAX_BATCH_SIZE
        self.warm_up_sizes = sorted({1, self.max_batch_size})
        self._session = _load(model_dir / GRAPH_NAME, num_threads)
        self._input_name = _check_input(self._session, manifest)
        self._output_name = _check_output(self._session, manifest)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits (B, K, h / 4, w / 4) float32 of images (B, h, w, 3) uint8."""
        (logits,) = self._session.run([self._output_name], {self._input_name: images})
        return np.asarray(logits)

    def close(self) -> None:
        """Drop the session and the memory it holds."""
        del self._session


def _load(graph: Path, num_threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise EngineError(f"onnxruntime is not installed: pip install 'ecenet[cpu]' ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the CPU from the decoders of the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error


def _check_input(session: onnxruntime.InferenceSession, manifest: Manifest) -> str:
    inputs = [(entry.name, entry.type, entry.shape) for entry in session.get_inputs()]
    height, width = manifest.input_size
    return _one_of(inputs, "input", "tensor(uint8)", [height, width, 3])


def _check_output(session: onnxruntime.InferenceSession, manifest: Manifest) -> str:
    outputs = [(entry.name, entry.type, entry.shape) for entry in session.get_outputs()]
    return _one_of(outputs, "output", "tensor(float)", [manifest.num_classes, *manifest.logits_size])


def _one_of(found: list[tuple[str, str, list[int | str]]], kind: str, dtype: str, sides: list[int]) -> str:
    """Name of the graph's only input or output, once type and shape are the manifest's.

    Sides without a fixed number, and the batch axis, must be free: their values are checked by the warm-up.
    """
    if len(found) == 1:
        name, found_dtype, (batch, *rest) = found[0]
        matches = len(rest) == len(sides) and all(
            not isinstance(side, int) or side == expected for side, expected in zip(rest, sides, strict=True)
        )
        if found_dtype == dtype and matches and not isinstance(batch, int):
            return name
    raise EngineError(
        f"the graph's {kind} is {found}, the manifest asks for one {dtype} of ['B', {', '.join(map(str, sides))}] "
        "with a free batch size B; export the checkpoint again"
    )
