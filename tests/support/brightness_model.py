"""A model whose answers can be told from the image: a pixel's class is the grey level next to its brightness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.model_directory.manifest import GRAPH_NAME, ClassInfo, GraphInfo, Manifest, file_sha256, write_manifest

# Logits (B, K, h, w) float32 of images (B, H, W, 3) uint8.
Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

# Brightness 0..255 that each class stands for.
LEVELS = (0.0, 128.0, 255.0)
CLASSES = (
    ClassInfo(0, "dark", (10, 20, 30)),
    ClassInfo(1, "grey", (40, 50, 60)),
    ClassInfo(2, "bright", (70, 80, 90)),
)


def brightness_logits(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (B, 3, h / 4, w / 4) of images (B, h, w, 3), as the graph of ``write_brightness_graph`` computes them."""
    batch, height, width, channels = images.shape
    cells = images.reshape(batch, height // 4, 4, width // 4, 4, channels).astype(np.float32).mean((2, 4, 5))
    return -((cells[:, None] - np.array(LEVELS, np.float32)[None, :, None, None]) ** 2)


class WriteModel(Protocol):
    """Writes a directory of the brightness model; ``levels`` may be turned round."""

    def __call__(
        self, directory: Path, *, name: str = "brightness", version: str = "1.2.3", levels: tuple[float, ...] = LEVELS
    ) -> Path: ...


def write_brightness_model(
    directory: Path, *, name: str = "brightness", version: str = "1.2.3", levels: tuple[float, ...] = LEVELS
) -> Path:
    directory.mkdir(parents=True)
    write_brightness_graph(directory / GRAPH_NAME, "B", levels)
    digest = file_sha256(directory / GRAPH_NAME)
    graph = GraphInfo(GRAPH_NAME, digest, (32, 64))
    write_manifest(directory, Manifest(name, version, "none", CLASSES, (graph,)))
    return directory


def write_brightness_graph(path: Path, batch: int | str, levels: tuple[float, ...] = LEVELS) -> None:
    import onnx  # noqa: PLC0415
    from onnx import TensorProto, helper  # noqa: PLC0415

    constants = helper.make_tensor("levels", TensorProto.FLOAT, [1, 3, 1, 1], levels)
    channel_axis = helper.make_tensor("channel_axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["cells", "channel_axis"], ["brightness"], keepdims=1),
        helper.make_node("Sub", ["brightness", "levels"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["squared"]),
        helper.make_node("Neg", ["squared"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 32, 64, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3, 8, 16])],
        [constants, channel_axis],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
