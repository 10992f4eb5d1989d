"""The parts of a request: the bytes of the image, and the query."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.client.options import Format
from service.model_directory.files import read_bounded

# No service takes a larger one.
MAX_FILE_BYTES = 1 << 30
ImageSource = bytes | str | os.PathLike[str] | NDArray[np.uint8]


def query_of(answer_format: Format, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The query of a request.

    Raises:
        ValueError: A parameter that no query can have, such as the name of a file that is not in UTF-8.
    """
    query = {"format": answer_format, **{name: _text(value) for name, value in parameters.items()}}
    for name, text in query.items():
        if text.encode(errors="ignore").decode() != text:
            raise ValueError(f"{name} is {text!r}, which is not in UTF-8")
    return query


def read_image(image: ImageSource) -> bytes:
    """The bytes to send: those of a file, or of a PNG of RGB pixels (H, W, 3) or grey ones (H, W), which loses nothing.

    Raises:
        OSError: The file cannot be read, is not a regular file, or has more than ``MAX_FILE_BYTES``.
        ValueError: An array of another shape or type.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, np.ndarray):
        return read_bounded(Path(image), MAX_FILE_BYTES)
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
