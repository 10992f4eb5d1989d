"""A float32 graph in INT8 with QDQ nodes, for ONNX Runtime on a CPU; the caller chooses the layers.

Activations are uint8 with a zero point each, weights int8 per output channel: the form that the CPU's kernels are made
for, and not what TensorRT takes. The rest of the graph, attention above all, stays in float32.

Weights use 7 of the 8 bits, -64..64. Processors without VNNI add two products of an activation and a weight in 16 bits
before they widen the sum (``pmaddubsw``): 2 · 255 · 127 does not fit there and would be cut, 2 · 255 · 64 fits. So
every sum is exact on every processor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from model_export.pixel_input import feed_pixels, find_pixel_input

_LAYER_OPERATORS = frozenset({"Conv"})
# They run in INT8 where all that they read comes from INT8 layers, so that nothing is converted in between.
_FOLLOWING_OPERATORS = frozenset({"Add", "Clip", "Concat", "DepthToSpace", "Relu"})
_OPERATORS = sorted(_LAYER_OPERATORS | _FOLLOWING_OPERATORS)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that can be INT8: the name of its node, and of its weight, which shows its place in the network."""

    node: str
    weight: str


class QuantizableGraph:
    """A float32 graph whose activations' ranges are known; it can be quantised repeatedly.

    Attributes:
        layers: The layers that can be INT8, in the order of the graph.
    """

    def __init__(self, path: Path, images: Sequence[NDArray[np.uint8]]) -> None:
        """Load a graph, and calibrate it.

        Args:
            path: The graph, in a folder where files may be written.
            images: (H, W, 3) uint8 each, of its input size.
        """
        self._model = onnx.load(path)
        self._pixels = find_pixel_input(self._model.graph)
        self._ranges = _calibrate(path, self._model.graph.input[0].name, images)
        if self._pixels is not None:
            self._ranges[self._pixels.tensor] = _range(*self._pixels.range)
        self.layers = [
            Layer(node.name, node.input[1]) for node in self._model.graph.node if node.op_type in _LAYER_OPERATORS
        ]

    def quantize(self, layers: Collection[Layer]) -> onnx.ModelProto:
        """A copy with these layers in INT8, one or more, and with them everything between them."""
        from onnxruntime.quantization import QDQQuantizer, QuantType  # noqa: PLC0415

        quantizer = QDQQuantizer(
            self._model,  # it works on a copy
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=_int8_nodes(self._model.graph, {layer.node for layer in layers}),
            nodes_to_exclude=[],
            op_types_to_quantize=_OPERATORS,
            extra_options={},
        )
        quantizer.quantize_model()
        model: onnx.ModelProto = quantizer.model.model
        if self._pixels is not None:
            feed_pixels(model.graph, self._pixels)
        _shuffle_pixels_in_int8(model.graph)
        _keep_float_weights(model.graph)
        quantizer.model.topological_sort()  # new nodes were appended at the end
        quantizer.model.clean_initializers()
        onnx.checker.check_model(model)
        return model


class _Reader:
    """Hands images to ONNX Runtime's calibration, one by one."""

    def __init__(self, input_name: str, images: Sequence[NDArray[np.uint8]]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = ({input_name: image[None]} for image in images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)


def _calibrate(path: Path, input_name: str, images: Sequence[NDArray[np.uint8]]) -> Any:
    """Each activation's range: its smallest and its largest value, both averaged over the images.

    Unlike the extremes over all images, the average is not set by one odd pixel.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator  # noqa: PLC0415

    calibrator = create_calibrator(
        path,
        _OPERATORS,
        augmented_model_path=str(path.with_suffix(".calibration.onnx")),
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"moving_average": True},
    )
    calibrator.collect_data(_Reader(input_name, images))
    return calibrator.compute_data()


def _range(lowest: np.float32, highest: np.float32) -> Any:
    from onnxruntime.quantization.calibrate import TensorData  # noqa: PLC0415

    return TensorData(lowest=np.array(lowest), highest=np.array(highest))


def _int8_nodes(graph: onnx.GraphProto, layers: Collection[str]) -> list[str]:
    """Names of these layers' nodes, and of the nodes that read nothing but their results."""
    constants = {tensor.name for tensor in graph.initializer}
    made: set[str] = set()
    chosen = []
    for node in graph.node:
        data = [name for name in node.input if name and name not in constants]
        follows = node.op_type in _FOLLOWING_OPERATORS and made.issuperset(data)
        if node.name in layers or (data and follows):
            chosen.append(node.name)
            made.update(node.output)
    return chosen


def _shuffle_pixels_in_int8(graph: onnx.GraphProto) -> None:
    """Let pixel shuffles between INT8 layers move uint8.

    The quantiser puts them between a DequantizeLinear and a QuantizeLinear, and ONNX Runtime leaves them there in
    float32. They change no value, so that both have the same scale, and the pair can go.
    """
    producers = {name: node for node in graph.node for name in node.output}
    consumers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    for node in [node for node in graph.node if node.op_type == "DepthToSpace"]:
        before, after = producers[node.input[0]], consumers[node.output[0]]
        if before.op_type == "DequantizeLinear" and [node.op_type for node in after] == ["QuantizeLinear"]:
            node.input[0] = before.input[0]
            node.output[0] = after[0].output[0]
            graph.node.remove(after[0])
            if len(consumers[before.output[0]]) == 1:
                graph.node.remove(before)


def _keep_float_weights(graph: onnx.GraphProto) -> None:
    """Keep ONNX Runtime from quantising the layers that stay in float32.

    Its optimiser WeightBiasQuantization rounds the float weights of a convolution between a DequantizeLinear and a
    QuantizeLinear to int8 with one scale for all channels, which is worse than INT8 with one per channel. A sum of one
    value, which changes nothing, keeps the two apart, at the price of a copy.
    """
    weights = {tensor.name for tensor in graph.initializer}
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    for node in [node for node in graph.node if node.op_type in _LAYER_OPERATORS]:
        if node.input[1] in weights and node.input[0] in dequantized:
            kept = f"{node.name}_float_input"
            graph.node.append(onnx.helper.make_node("Sum", [node.input[0]], [kept], kept))
            node.input[0] = kept
