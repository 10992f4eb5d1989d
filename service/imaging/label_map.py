"""Label maps straight from stride-4 logits, at any size; compiled (``label_map.c``), and free of the GIL while it runs.

Only where cells of different classes meet are logits interpolated (``label_map.c`` says how), so full-size logits,
``K * H * W`` floats, never exist.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.imaging.native import MAX_CLASSES, Status, check_size, library

Logits = NDArray[np.float32] | NDArray[np.float16]


def label_map(logits: Logits, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize logits bilinearly and take the best class of every pixel.

    Equal to ``interpolate(logits, size, mode="bilinear", align_corners=False).argmax(0)`` in float64, except where the
    best two classes tie, or differ by less than the rounding of that: exact arithmetic decides here, and the lower
    class wins an exact tie, while rounding decides there. (Exact up to some 4000 pixels a side, float64 beyond.)

    Args:
        logits: (K, h, w) float32 or float16, finite, with 1 <= K <= 256; copied first if not contiguous and aligned.
        size: (H, W) of the result, larger or smaller than (h, w), 1 or more each.

    Returns:
        (H, W) uint8, class ids 0..K-1.

    Raises:
        ValueError: Another type, shape or size, or logits with NaN or infinity.
        MemoryError: No room for the scratch, some ``h * w + 24 * (H + W)`` bytes and a tile of ``K`` planes.
    """
    _check(logits, size)
    aligned = _aligned(logits)
    labels = np.empty(size, np.uint8)
    status = library.label_map(aligned.ctypes.data, logits.itemsize, *logits.shape, *size, labels.ctypes.data)
    if status == Status.NOT_FINITE:
        raise ValueError("logits hold NaN or infinity, expected finite values")
    if status == Status.NO_MEMORY:
        raise MemoryError(f"no memory to label {size[0]}x{size[1]} pixels")
    assert status == Status.OK
    return labels


def in_float32(logits: Logits) -> NDArray[np.float32]:
    """Logits of any shape in float32: float16 as a copy, in which NaN becomes infinity; other types unchanged."""
    if logits.dtype != np.float16:
        return cast(NDArray[np.float32], logits)
    aligned = _aligned(logits)
    values = np.empty(aligned.shape, np.float32)
    library.widen(aligned.ctypes.data, aligned.size, values.ctypes.data)
    return values


def _aligned(logits: Logits) -> Logits:
    return np.require(logits, requirements=["C_CONTIGUOUS", "ALIGNED"])


def _check(logits: Logits, size: tuple[int, int]) -> None:
    if logits.dtype not in (np.float32, np.float16):
        raise ValueError(f"logits are {logits.dtype}, expected float32 or float16")
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(f"logits have shape {logits.shape}, expected (K, h, w) with sides of 1 or more")
    if logits.shape[0] > MAX_CLASSES:
        raise ValueError(f"logits have {logits.shape[0]} classes, at most {MAX_CLASSES} fit into uint8 labels")
    check_size(size)
