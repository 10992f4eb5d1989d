"""Options of a request: the format of the answer, and the parameters of ``POST /segment``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

API_KEY_VARIABLE = "ECENET_API_KEY"
LABEL_STUDIO_VARIABLE = "LABEL_STUDIO_API_KEY"
TIMEOUT_S = 120.0
"""Longest wait for a connection, and for the next byte of an answer, unless another is given."""
MAX_PORT = 65535

Format = Literal[
    "labels", "color", "overlay", "confidence", "cutout", "contours", "labelme", "coco", "labelstudio", "npy", "json"
]


class Parameters(TypedDict, total=False):
    """Parameters of ``POST /segment`` besides the format; omitted ones have the service's defaults.

    Attributes:
        model: Name of the model.
        palette: Of ``labels``: the classes' colours, or none (a grey PNG).
        alpha: Of ``overlay``: weight of the colours, 0..1.
        classes: Names or ids of the only classes to keep; all other pixels have the id 255.
        size: Of the answer: that of the image, or of the model's input.
        mode: Whether the image is stretched to the model's input, or goes through it in overlapping windows.
        background: Behind transparent pixels: hexadecimal digits such as ``ff8000``, or a CSS name.
        rle: Of ``json``: add each class's mask as COCO's run lengths.
        simplify: Of polygons: largest distance in pixels from a dropped corner to the new border.
        name: Of ``labelme``, ``coco`` and ``labelstudio``: path or address of the image for the tool.
    """

    model: str
    palette: Literal["classes", "none"]
    alpha: float
    classes: Sequence[str | int]
    size: Literal["input", "model"]
    mode: Literal["resize", "tile"]
    background: str
    rle: bool
    simplify: float
    name: str
