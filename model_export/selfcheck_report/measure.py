"""An engine measured: agreement and times per batch size, with the copies to the GPU and without them, and memory."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.engines.base import DeviceTimed, Engine
from service.engines.selfcheck import CheckedBatch
from service.engines.tensorrt.engine import TensorRtEngine
from service.engines.tensorrt.layer_report import LayerReportError


@dataclass(frozen=True, slots=True)
class MeasuredSize:
    """Times and labels of one batch size.

    Attributes:
        batch_size: Images of a batch.
        equal_labels: Share of labels equal to PyTorch's, 0..1.
        max_logit_error: Largest error of a logit; None where the output is labels.
        ms: Median of a batch from array to array, with the copies to and from a GPU.
        images_per_s: Images per second at that time.
        device_ms: Median of the network alone on a GPU; None for engines that cannot measure it.
    """

    batch_size: int
    equal_labels: float
    max_logit_error: float | None
    ms: float
    images_per_s: float
    device_ms: float | None


def batch_times(engine: Engine, checked: Sequence[CheckedBatch], repeats: int) -> list[MeasuredSize]:
    """The times of the batch sizes that were checked."""
    return [
        MeasuredSize(
            batch.batch_size,
            batch.agreement.equal_labels,
            batch.agreement.max_logit_error,
            batch.milliseconds,
            1e3 * batch.batch_size / batch.milliseconds,
            _device_ms(engine, batch.batch_size, repeats),
        )
        for batch in checked
    ]


def saturation(times: Sequence[MeasuredSize]) -> float:
    """Images per second of the best batch size, without the copies where that is known; 0 of none."""
    return max((1e3 * row.batch_size / (row.device_ms or row.ms) for row in times), default=0.0)


def engine_facts(engine: Engine) -> dict[str, Any]:
    """The engine, as JSON; of TensorRT also its key, its flags and its kernels."""
    graph = engine.graph
    facts: dict[str, Any] = {
        "runtime": engine.name,
        "graph": graph.file,
        "graph_sha256": graph.sha256,
        "precision": graph.precision,
        "input_size": list(graph.input_size),
        "output": graph.output,
        "max_batch_size": engine.max_batch_size,
        "prepared_sizes": list(engine.warm_up_sizes),
    }
    return facts | _tensorrt_facts(engine) if isinstance(engine, TensorRtEngine) else facts


def _tensorrt_facts(engine: TensorRtEngine) -> dict[str, Any]:
    info = engine.info
    facts: dict[str, Any] = {
        "machine": asdict(info.key.machine),
        "profile": list(info.key.profile),
        "flags": list(info.key.flags),
        "engine_sha256": info.sha256,
        "attentions": info.attentions,
        "fused_attentions_of_the_build": info.fused_attentions,
    }
    try:
        layers = engine.layers()
    except LayerReportError as error:
        return facts | {"layer_report": str(error)}
    return facts | {
        "layers": len(layers),
        "layers_by_kind": dict(Counter(layer.kind for layer in layers).most_common()),
        "fused_attention_kernels": sum(layer.is_fused_attention for layer in layers),
        "repeated_inputs": sum(layer.repeats_input for layer in layers),
        "layer_names": [layer.name for layer in layers],
    }


def _device_ms(engine: Engine, size: int, repeats: int) -> float | None:
    if not isinstance(engine, DeviceTimed) or size not in engine.warm_up_sizes:
        return None
    return statistics.median(engine.device_milliseconds(size, repeats))
