"""Checks of a loaded graph's input and output against the manifest."""

from __future__ import annotations

from collections.abc import Sequence

from service.engines.base import EngineError, output_dtype
from service.model_directory.manifest import GraphInfo

# Name, type in ONNX's words, and shape; a side that is not fixed is a name.
Tensor = tuple[str, str, list[int | str]]

# NumPy's names of types to ONNX's.
ONNX_TYPES = {"uint8": "tensor(uint8)", "float16": "tensor(float16)", "float32": "tensor(float)"}


def check_input(found: Sequence[Tensor], graph: GraphInfo) -> str:
    """Name of the only input, after a check that it takes the images of a graph.

    Raises:
        EngineError: Another number of inputs, another type or shape, or a batch size that is fixed.
    """
    return _only(found, "input", "tensor(uint8)", [*graph.input_size, 3])


def check_output(found: Sequence[Tensor], graph: GraphInfo, num_classes: int) -> str:
    """Name of the only output, after a check against the manifest.

    Raises:
        EngineError: See ``check_input``.
    """
    return _only(found, "output", ONNX_TYPES[output_dtype(graph).name], graph.output_shape(1, num_classes)[1:])


def _only(found: Sequence[Tensor], kind: str, dtype: str, sides: Sequence[int]) -> str:
    """Name of the graph's only input or output, after a check of type and shape against the manifest.

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
        f"the graph's {kind} is {list(found)}, the manifest asks for one {dtype} of ['B', {', '.join(map(str, sides))}]"
        " with a free batch size B; export the checkpoint again"
    )
