"""The request of a client: an image, and the parameters of ``POST /segment``."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Format = Literal[
    "labels", "color", "overlay", "confidence", "cutout", "contours", "labelme", "coco", "labelstudio", "npy", "json"
]
ImageSource = bytes | str | os.PathLike[str] | NDArray[np.uint8]


class Parameters(TypedDict, total=False):
    """Parameters of ``POST /segment`` besides the format; what is left out is the service's default.

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


def query_of(answer_format: Format, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The query of a request."""
    return {"format": answer_format, **{name: _text(value) for name, value in parameters.items()}}


def read_image(image: ImageSource) -> bytes:
    """The bytes to send: those of a file, or of a PNG of RGB pixels (H, W, 3) or grey ones (H, W), which loses nothing.

    Raises:
        OSError: The file cannot be read.
        ValueError: An array of another shape or type.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, np.ndarray):
        return Path(image).read_bytes()
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or 0 in image.shape:
        raise ValueError(f"the image is {image.dtype} {image.shape}, expected uint8 (H, W, 3) or (H, W)")
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
