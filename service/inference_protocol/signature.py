"""Inputs and outputs of the model, in the words of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.model_directory.manifest import GraphInfo

Datatype = Literal["UINT8", "FP32", "BYTES"]
IMAGES = "images"
IMAGE_BYTES = "image_bytes"
LABELS = "labels"
LOGITS = "logits"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's name, the protocol's name of its type, and its shape; -1 stands for any number of images."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs, of which a request sends one, and the outputs, of which it asks for any.

    Attributes:
        input_size: (H, W) of the model's input in pixels, which is also that of ``labels``.
        inputs: ``images``, RGB at the model's size, or ``image_bytes``, image files of any size.
        outputs: ``labels``, class ids at the model's size, and ``logits`` where the graph gives them.
    """

    input_size: tuple[int, int]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def output(self, name: str) -> TensorInfo:
        """The output of that name, which must be there."""
        return next(info for info in self.outputs if info.name == name)


def signature_of(graph: GraphInfo, num_classes: int) -> Signature:
    """Inputs and outputs of a graph."""
    height, width = graph.input_size
    inputs = (TensorInfo(IMAGES, "UINT8", (-1, height, width, 3)), TensorInfo(IMAGE_BYTES, "BYTES", (-1,)))
    labels = TensorInfo(LABELS, "UINT8", (-1, height, width))
    if graph.output != "logits":
        return Signature(graph.input_size, inputs, (labels,))
    logits = TensorInfo(LOGITS, "FP32", graph.output_shape(-1, num_classes))
    return Signature(graph.input_size, inputs, (labels, logits))
