"""Where a graph's time goes: the share of each operator and of the slowest layers, on one thread of a CPU.

Of ONNX Runtime also the rate of each kind of product, as its profiler has shapes. They include the channels that it
pads to the blocks of the processor, 8 or 16.

    python -m benchmarks.layers models/ecenet-lite0-camvid/model.onnx onnxruntime

Times are those that the runtimes measure: ONNX Runtime's profiler, OpenVINO's PERF_COUNT. Of each layer the median of
the quicker half of the runs counts, as other work on the machine only adds to it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export.onnx_flops import operator_flops
from service.engines.onnxruntime_engine import session_options

_KERNEL = "_kernel_time"
_SIDES = ("input", "output")
_DEAREST = 12


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as the runtime runs it, which may be several of the graph in one.

    Attributes:
        name: Of the layer.
        operator: Its type.
        milliseconds: Of a run.
        flops: Floating-point operations, a multiply-add is two; 0 without products, or without their shapes.
        kind: Operator, kernel and cells of a convolution, e.g. ``Conv 1x1 at 72x96``; of others the operator.
    """

    name: str
    operator: str
    milliseconds: float
    flops: int = 0
    kind: str = ""


def onnxruntime_layers(graph: Path, runs: int) -> list[Layer]:
    """The layers of ONNX Runtime, in no order."""
    import onnxruntime  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(1)
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        (source,) = session.get_inputs()
        for _ in range(runs):
            session.run(None, {source.name: _image(source.shape[1:3])})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL)]
    layers = _layers((node["name"].removesuffix(_KERNEL), node["args"]["op_name"], node["dur"] / 1e3) for node in nodes)
    details = {node["name"].removesuffix(_KERNEL): _product(node["args"]) for node in nodes}
    return [replace(layer, flops=details[layer.name][0], kind=details[layer.name][1]) for layer in layers]


def _product(arguments: Mapping[str, Any]) -> tuple[int, str]:
    """Operations and kind of a node by the shapes in ONNX Runtime's profile."""
    operator = str(arguments["op_name"])
    inputs, (output, *_) = ([tuple(*each.values()) for each in arguments[f"{side}_type_shape"]] for side in _SIDES)
    count = 3 if operator == "Attention" else 2
    is_whole = len(inputs) >= count  # not of a Gemm or MatMul whose weights the runtime has packed
    flops = operator_flops(operator.removeprefix("Fused"), [*inputs[:count], output]) if is_whole else 0
    if operator != "Conv":
        return flops, operator
    _, depth, *kernel = inputs[1]
    name = "Conv depthwise" if depth == 1 else "Conv"
    return flops, f"{name} {'x'.join(map(str, kernel))} at {'x'.join(map(str, output[2:]))}"


def openvino_layers(graph: Path, runs: int) -> list[Layer]:
    """The layers of OpenVINO, in no order."""
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    model = core.read_model(graph)
    _, height, width, _ = (side.get_length() if side.is_static else 1 for side in model.inputs[0].partial_shape)
    model.reshape([1, height, width, 3])
    options = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def timed() -> Iterator[tuple[str, str, float]]:
        for _ in range(runs):
            request.infer([_image((height, width))])
            for layer in request.profiling_info:
                if layer.status.name == "EXECUTED":
                    yield layer.node_name, layer.node_type, layer.real_time.total_seconds() * 1e3

    return _layers(timed())


def shares(layers: list[Layer]) -> Mapping[str, float]:
    """Share of the time by operator, 0..1, the largest first."""
    sums: Counter[str] = Counter()
    for layer in layers:
        sums[layer.operator] += layer.milliseconds  # type: ignore[assignment]  # a Counter of floats adds up as well
    total = sum(sums.values())
    return {operator: milliseconds / total for operator, milliseconds in sums.most_common()}


def rates(layers: Sequence[Layer]) -> list[Layer]:
    """One layer for each kind that has products, with the sums of times and operations, the dearest first."""
    kinds: dict[str, Layer] = {}
    for layer in layers:
        if layer.flops:
            so_far = kinds.get(layer.kind, Layer(layer.kind, layer.operator, 0.0, 0, layer.kind))
            milliseconds, flops = so_far.milliseconds + layer.milliseconds, so_far.flops + layer.flops
            kinds[layer.kind] = replace(so_far, milliseconds=milliseconds, flops=flops)
    return sorted(kinds.values(), key=lambda kind: -kind.milliseconds)


LAYERS_OF: Mapping[str, Callable[[Path, int], list[Layer]]] = {
    "onnxruntime": onnxruntime_layers,
    "openvino": openvino_layers,
}


def _layers(runs: Iterator[tuple[str, str, float]]) -> list[Layer]:
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, operator, milliseconds in runs:
        times[name, operator].append(milliseconds)
    return [
        Layer(name, operator, statistics.median(sorted(each)[: (len(each) + 1) // 2]))
        for (name, operator), each in times.items()
    ]


def _image(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)


def main() -> None:
    """Measure, and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path, help="ONNX graph of ecenet-export")
    parser.add_argument("runtime", choices=sorted(LAYERS_OF))
    parser.add_argument("--runs", type=int, default=10, help="default: %(default)s")
    arguments = parser.parse_args()
    layers = LAYERS_OF[arguments.runtime](arguments.graph, arguments.runs)
    total = sum(layer.milliseconds for layer in layers)
    print(f"{total:.1f} ms in {len(layers)} layers")
    for operator, share in shares(layers).items():
        print(f"{share:6.1%}  {operator}")
    print()
    for layer in sorted(layers, key=lambda layer: -layer.milliseconds)[:_DEAREST]:
        print(f"{layer.milliseconds / total:6.1%}  {layer.operator:<20} {layer.name}")
    print()
    for kind in rates(layers)[:_DEAREST]:
        print(f"{kind.milliseconds / total:6.1%}  {kind.flops / kind.milliseconds / 1e6:6.1f} GFLOP/s  {kind.name}")


if __name__ == "__main__":
    main()
