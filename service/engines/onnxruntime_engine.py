"""ONNX Runtime, on the CPU or on an NVIDIA GPU: any batch size up to the limit, without padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.engines.base import EngineError, Rows
from service.engines.graph_tensors import Tensor, check_input, check_output
from service.model_directory.manifest import GraphInfo, Manifest

if TYPE_CHECKING:
    import onnxruntime

Device = Literal["cpu", "cuda"]

# On a CPU an image of a batch takes as long as one alone, or longer, and the batch waits for its last. On 2 shared CPUs
# 8 clients of benchmarks/serving.py got 22 images/s with batches of up to 2, and 16 with up to 8, at 1.7 times the p90.
_MAX_BATCH_SIZES: dict[Device, int] = {"cpu": 2, "cuda": 8}
_CUDA_PROVIDER = "CUDAExecutionProvider"
_CPU_PROVIDER = "CPUExecutionProvider"
# What the time of a network goes into. Shape arithmetic belongs on the CPU, also of a GPU's session.
_HEAVY_OPERATORS = frozenset({"Attention", "Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul"})


class OnnxRuntimeEngine:
    """Runs an ONNX graph; implements ``service.engines.base.Engine``."""

    def __init__(
        self,
        model_dir: Path,
        manifest: Manifest,
        graph: GraphInfo,
        *,
        num_threads: int,
        max_batch_size: int | None = None,
        device: Device = "cpu",
    ) -> None:
        """Load the graph and compare its input and output with the manifest.

        Raises:
            EngineError: No onnxruntime, a graph that it cannot load, one that the manifest does not describe, or a GPU
                that is not there or does not take the network: nothing runs on the CPU unasked.
        """
        self.name = "onnxruntime" if device == "cpu" else "onnxruntime-cuda"
        self.graph = graph
        self.num_classes = manifest.num_classes
        self.max_batch_size = max_batch_size or _MAX_BATCH_SIZES[device]
        self.warm_up_sizes = sorted({1, self.max_batch_size})
        self._session = _load(model_dir / graph.file, num_threads, device)
        self._input_name = check_input(_tensors(self._session.get_inputs()), graph)
        self._output_name = check_output(_tensors(self._session.get_outputs()), graph, manifest.num_classes)

    def infer(self, images: NDArray[np.uint8]) -> Rows:
        """Logits (B, K, h / 4, w / 4) float32, or labels uint8, of images (B, h, w, 3) uint8."""
        (rows,) = self._session.run([self._output_name], {self._input_name: images})
        return np.asarray(rows)

    def close(self) -> None:
        """Drop the session and the memory it holds."""
        del self._session


def cpu_obstacle() -> str | None:
    """The reason why ONNX Runtime cannot be used, or None."""
    try:
        import onnxruntime  # noqa: F401, PLC0415
    except ImportError as error:
        return f"onnxruntime is not installed: pip install 'ecenet[cpu]', with a GPU 'ecenet[gpu]' ({error})"
    return None


def cuda_obstacle() -> str | None:
    """The reason why ONNX Runtime cannot use a GPU, or None; that CUDA starts shows only when a model is loaded."""
    if (obstacle := cpu_obstacle()) is not None:
        return obstacle
    import onnxruntime  # noqa: PLC0415

    if _CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was built without CUDA: pip install onnxruntime-gpu in its place"
    return None


def nodes_by_provider(session: onnxruntime.InferenceSession) -> list[tuple[str, str]]:
    """(provider, operator) of every node of a session that records them."""
    parts = session.get_provider_graph_assignment_info()
    return [(part.ep_name, node.op_type) for part in parts for node in part.get_nodes()]


def heavy_operators_elsewhere(nodes: Iterable[tuple[str, str]], provider: str) -> list[str]:
    """Operators of weight that a session runs on another provider than the one asked for, each with its count.

    Args:
        nodes: (provider, operator) of each node.
        provider: The one asked for.
    """
    counts = Counter(operator for found, operator in nodes if found != provider and operator in _HEAVY_OPERATORS)
    return [f"{count} {operator}" for operator, count in sorted(counts.items())]


def _load(graph: Path, num_threads: int, device: Device) -> onnxruntime.InferenceSession:
    if (obstacle := cuda_obstacle() if device == "cuda" else cpu_obstacle()) is not None:
        raise EngineError(obstacle)
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the CPU from the decoders of the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it keeps the activations twice: 280 MB in place of 140 for the bundled model
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1" if device == "cuda" else "0")
    options.log_severity_level = 3
    # float32 means float32: CUDA's default rounds the factors of products to TF32's 10 bits.
    cuda = (_CUDA_PROVIDER, {"use_tf32": "0"})
    providers = [_CPU_PROVIDER] if device == "cpu" else [cuda, _CPU_PROVIDER]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers)
    except Exception as error:
        raise EngineError(f"onnxruntime cannot load {graph}: {error}") from error
    if device == "cuda":
        _check_cuda(session)
    return session


def _check_cuda(session: onnxruntime.InferenceSession) -> None:
    """Refuse a session that runs on the CPU: ONNX Runtime falls back to it without an error."""
    if session.get_providers()[0] != _CUDA_PROVIDER:
        raise EngineError(
            "onnxruntime could not start CUDA and would run on the CPU: check nvidia-smi, CUDA and cuDNN "
            "(pip install 'onnxruntime-gpu[cuda,cudnn]'), or choose --engine onnxruntime"
        )
    elsewhere = heavy_operators_elsewhere(nodes_by_provider(session), _CUDA_PROVIDER)
    if elsewhere:
        raise EngineError(
            f"this onnxruntime has no CUDA kernels for {', '.join(elsewhere)} of the graph and would run them on the "
            "CPU: update onnxruntime-gpu, or build an engine with ecenet-export tensorrt"
        )


def _tensors(nodes: Iterable[Any]) -> list[Tensor]:
    return [(node.name, node.type, node.shape) for node in nodes]
