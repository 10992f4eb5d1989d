"""Runtime and graph: what was asked for or an error, and with ``auto`` the best that there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.engines.base import EngineError
from service.engines.choice import choose_graph, choose_runtime, measured_precisions, precision_obstacle
from service.engines.runtimes import RUNTIMES, PrecisionName, RuntimeName
from service.model_directory.manifest import DEFAULT_BOUNDS, GraphInfo, Manifest
from service.model_directory.sizes import Size

OBSTACLES: dict[RuntimeName, str | None] = {
    "tensorrt": "no GPU",
    "tensorrt-rtx": "not installed",
    "onnxruntime-cuda": "built without CUDA",
    "onnxruntime": None,
    "openvino": "not installed",
}


def test_auto_takes_the_fastest_that_can_be_used_and_says_why_not_a_faster_one() -> None:
    choice = choose_runtime("auto", OBSTACLES.__getitem__)
    assert choice.runtime == "onnxruntime"
    assert list(choice.passed_over.items()) == list(OBSTACLES.items())[:3]
    with_gpu = choose_runtime("auto", {**OBSTACLES, "tensorrt-rtx": None, "onnxruntime-cuda": None}.__getitem__)
    assert (with_gpu.runtime, with_gpu.passed_over) == ("tensorrt-rtx", {"tensorrt": "no GPU"})
    assert choose_runtime("auto", dict.fromkeys(RUNTIMES).__getitem__).runtime == "tensorrt"
    alone = choose_runtime("auto", {**OBSTACLES, "onnxruntime": "not installed", "openvino": None}.__getitem__)
    assert (alone.runtime, alone.passed_over["onnxruntime"]) == ("openvino", "not installed")


def test_runtimes_behind_the_one_that_is_taken_are_not_loaded() -> None:
    asked: list[RuntimeName] = []

    def obstacle_of(runtime: RuntimeName) -> str | None:
        asked.append(runtime)
        return None if runtime == "tensorrt-rtx" else "absent"

    assert choose_runtime("auto", obstacle_of).runtime == "tensorrt-rtx"
    assert asked == ["tensorrt", "tensorrt-rtx"]


@pytest.mark.parametrize("wanted", ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "openvino"])
def test_what_was_asked_for_is_never_replaced(wanted: RuntimeName) -> None:
    with pytest.raises(EngineError, match=f"--engine {wanted} cannot be used: {OBSTACLES[wanted]}"):
        choose_runtime(wanted, OBSTACLES.__getitem__)
    assert choose_runtime(wanted, {**OBSTACLES, wanted: None}.__getitem__).runtime == wanted


def test_no_runtime_at_all_is_told_with_every_reason() -> None:
    with pytest.raises(EngineError, match=r"tensorrt: no GPU; .*onnxruntime: not installed"):
        choose_runtime("auto", {**OBSTACLES, "onnxruntime": "not installed"}.__getitem__)


@pytest.fixture
def several(manifest: Manifest) -> Manifest:
    small, large = (32, 64), (64, 128)
    names = [(small, "fp32"), (small, "fp16"), (large, "fp32"), (small, "int8")]
    graphs = [GraphInfo(f"{size}-{name}.onnx", "0", size, precision=name) for size, name in names]  # type: ignore[arg-type]
    return replace(manifest, graphs=tuple(graphs))


@pytest.mark.parametrize(
    ("runtime", "precision", "size", "expected"),
    [
        ("onnxruntime", "auto", None, (32, 64, "fp32")),
        ("onnxruntime", "fp32", None, (32, 64, "fp32")),
        ("onnxruntime", "auto", (64, 128), (64, 128, "fp32")),
        ("openvino", "auto", None, (32, 64, "fp32")),
        ("openvino", "auto", (64, 128), (64, 128, "fp32")),
        ("openvino", "bf16", None, (32, 64, "bf16")),
        ("onnxruntime-cuda", "auto", None, (32, 64, "fp16")),
        ("tensorrt", "auto", (64, 128), (64, 128, "fp32")),
        ("tensorrt", "int8", (32, 64), (32, 64, "int8")),
    ],
)
def test_graph_of_the_size_and_the_runtimes_best_precision(
    several: Manifest, runtime: RuntimeName, precision: PrecisionName, size: Size | None, expected: tuple[int, int, str]
) -> None:
    graph = choose_graph(several, runtime, precision, size)
    assert (*graph.input_size, graph.precision) == expected


def test_a_graph_that_is_not_there_is_told_with_those_that_are(several: Manifest) -> None:
    with pytest.raises(EngineError, match="no graph of 64x128 in int8; it has 32x64 fp32, 32x64 fp16, 64x128 fp32"):
        choose_graph(several, "onnxruntime", "int8", (64, 128))
    with pytest.raises(EngineError, match="brightness has no graph of 96x96; it has"):
        choose_graph(several, "tensorrt", "auto", (96, 96))


def test_bf16_is_the_float32_graph_on_openvino_and_nobody_elses(several: Manifest) -> None:
    graph = choose_graph(several, "openvino", "bf16", (64, 128))
    assert (graph.file, graph.bounds) == (several.graphs[2].file, DEFAULT_BOUNDS["bf16"])
    assert [runtime for runtime in RUNTIMES if precision_obstacle(runtime, "bf16") is None] == ["openvino"]
    assert not any(precision_obstacle(runtime, "fp16") for runtime in RUNTIMES)
    without = replace(several, graphs=several.graphs[1:2])
    with pytest.raises(EngineError, match="no graph of 32x64 in fp32; it has 32x64 fp16"):
        choose_graph(without, "openvino", "bf16", None)


@pytest.mark.parametrize(
    ("runtime", "precisions"),
    [
        ("onnxruntime", ["fp32", "int8"]),
        ("openvino", ["fp32", "int8", "bf16"]),
        ("onnxruntime-cuda", ["fp16", "fp32"]),
        ("tensorrt", ["fp16", "fp32", "int8"]),
        ("tensorrt-rtx", ["fp16", "fp32", "int8"]),
    ],
)
def test_precisions_that_are_no_detour_on_a_processor_are_measured(
    runtime: RuntimeName, precisions: list[str], several: Manifest
) -> None:
    assert measured_precisions(several, runtime, None) == precisions
    only = replace(several, graphs=(replace(several.graphs[0], precision="fp16"),))
    assert measured_precisions(only, "openvino", None) == ["fp16"]
    with pytest.raises(EngineError, match="has no graph of 96x96"):
        measured_precisions(several, runtime, (96, 96))
