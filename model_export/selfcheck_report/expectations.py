"""The documentation's expectations of an engine and of the service, checked against a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Bytes that the bundled graph moves per image in fp16, by its tensors: see docker/README.md.
BYTES_PER_IMAGE = {"ecenet-lite0-camvid": 544e6}
MIN_SHARE_OF_BANDWIDTH = 0.5
MIN_SHARE_OF_ENGINE = 0.5
_GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation.

    Attributes:
        text: The expectation.
        found: The finding.
        held: None where it does not apply, or could not be measured.
    """

    text: str
    found: str
    held: bool | None


def expectations(report: Mapping[str, Any]) -> list[Expectation]:
    """All expectations of a report as ``report.selfcheck_report`` builds it."""
    return [
        _agreement(report),
        _fusion(report["engine"]),
        _depthwise(report["engine"]),
        _batching(report),
        _bandwidth(report),
        _answers(report["service"]),
        _service_share(report),
    ]


def _agreement(report: Mapping[str, Any]) -> Expectation:
    sizes = ", ".join(str(row["batch_size"]) for row in report["batches"])
    text = "every batch size agrees with PyTorch on the golden inputs"
    return Expectation(text, report["failure"] or f"batches {sizes} agree", not report["failure"])


def _fusion(engine: Mapping[str, Any]) -> Expectation:
    text = "TensorRT fuses every attention into one kernel"
    if "attentions" not in engine:
        return Expectation(text, "no TensorRT engine", None)
    fused, attentions = engine["fused_attentions_of_the_build"], engine["attentions"]
    return Expectation(text, f"{fused} of {attentions} by the kernels' names", fused == attentions)


def _depthwise(engine: Mapping[str, Any]) -> Expectation:
    text = "TensorRT repeats no input of a depthwise convolution in memory"
    if "repeated_inputs" not in engine:
        return Expectation(text, "no TensorRT engine, or no layer report", None)
    repeated = engine["repeated_inputs"]
    return Expectation(text, f"{repeated} of {engine['layers']} layers do, by their names", repeated == 0)


def _batching(report: Mapping[str, Any]) -> Expectation:
    text = "on a GPU an image of the largest batch takes less time than one alone"
    rows: Sequence[Mapping[str, Any]] = report["batches"]
    if report["engine"].get("runtime") not in _GPU_RUNTIMES or len(rows) < 2:
        return Expectation(text, "no GPU", None)
    alone, batched = rows[0]["ms"], rows[-1]["ms"] / rows[-1]["batch_size"]
    return Expectation(text, f"{batched:.2f} ms against {alone:.2f} ms", batched < alone)


def _bandwidth(report: Mapping[str, Any]) -> Expectation:
    text = f"the engine reaches {MIN_SHARE_OF_BANDWIDTH:.0%} of the images/s that the GPU's memory allows"
    size, bandwidth = BYTES_PER_IMAGE.get(report["model"]["name"]), report["gpu_bytes_per_s"]
    on_gpu = report["engine"].get("runtime") in _GPU_RUNTIMES and report["engine"].get("precision") == "fp16"
    if size is None or bandwidth is None or not on_gpu or not report["images_per_s"]:
        return Expectation(text, "no GPU, or another model or precision than the bundled in fp16", None)
    share = report["images_per_s"] / (bandwidth / size)
    return Expectation(text, f"{report['images_per_s']:.0f} of {bandwidth / size:.0f}", share >= MIN_SHARE_OF_BANDWIDTH)


def _answers(service: Mapping[str, Any]) -> Expectation:
    text = "the service answers every request with 200"
    if not service["load"]:
        return Expectation(text, service["failure"] or "not measured", False if service["failure"] else None)
    others = Counter[int]()
    for row in service["load"]:
        others.update({int(status): count for status, count in row["answers"].items() if int(status) != 200})
    found = ", ".join(f"{count} x {status}" for status, count in others.items()) or "only 200"
    return Expectation(text, found, not others)


def _service_share(report: Mapping[str, Any]) -> Expectation:
    text = f"the service reaches {MIN_SHARE_OF_ENGINE:.0%} of the engine's images/s"
    best = max((row["images_per_s"] for row in report["service"]["load"]), default=0.0)
    if not best or not report["images_per_s"]:
        return Expectation(text, "not measured", None)
    share = best / report["images_per_s"]
    return Expectation(text, f"{best:.0f} of {report['images_per_s']:.0f}", share >= MIN_SHARE_OF_ENGINE)
