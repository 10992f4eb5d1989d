"""Label maps as NumPy files."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray


def encode_npy(labels: NDArray[np.uint8]) -> bytes:
    """A file that ``numpy.load`` reads as (H, W) uint8."""
    stream = io.BytesIO()
    np.save(stream, labels, allow_pickle=False)
    return stream.getvalue()
