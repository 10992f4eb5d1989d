"""An image to the size of the model's input; compiled (``resize.c``), and free of the GIL while it runs.

Pillow gives the same pixels for more of a request's CPU; ``benchmarks/feed/README.md`` has both figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.imaging.native import PADDED_BYTES, Status, check_size, library


def resize_to_input(
    pixels: NDArray[np.uint8], input_size: tuple[int, int], *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Stretch an image to the model's input by Pillow's bilinear filter, which averages when it shrinks.

    Equal to Pillow, bit for bit, where that resizes the width first. Pillow 13 has begun to take the height first where
    that shrinks the most, which changes some samples by one; here an answer does not depend on Pillow's version.

    The aspect ratio is not kept: the label map is made at the original size, which is the inverse stretch.

    Args:
        pixels: (H, W, 3) uint8, RGB; copied first unless its rows lie one after another with 3 or 4 bytes a pixel.
        input_size: (height, width) in pixels, 1 or more each.
        out: (height, width, 3) uint8, contiguous, for the result; a new array if not given.

    Returns:
        (height, width, 3) uint8: ``out``, or without it the same array where the size is right already.

    Raises:
        ValueError: Another type, shape or size.
        MemoryError: No room for the scratch: weights, and as many rows as one of the result is made of.
    """
    _check(pixels, input_size)
    if out is not None and (out.shape != (*input_size, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous):
        raise ValueError(f"out is {out.dtype} {out.shape}, expected contiguous uint8 {(*input_size, 3)}")
    height, width, _ = pixels.shape
    if (height, width) == input_size:
        if out is None:
            return pixels
        np.copyto(out, pixels)
        return out
    pixel_bytes = PADDED_BYTES
    if pixels.strides != (PADDED_BYTES * width, PADDED_BYTES, 1):
        pixels, pixel_bytes = np.ascontiguousarray(pixels), 3  # numpy's own strides mean nothing along a side of 1
    resized = np.empty((*input_size, 3), np.uint8) if out is None else out
    status = library.resize(pixels.ctypes.data, pixel_bytes, height, width, *input_size, resized.ctypes.data)
    if status == Status.NO_MEMORY:
        raise MemoryError(f"no memory to resize {height}x{width} pixels to {input_size[0]}x{input_size[1]}")
    assert status == Status.OK
    return resized


def _check(pixels: NDArray[np.uint8], input_size: tuple[int, int]) -> None:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype}, expected uint8")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels have shape {pixels.shape}, expected (H, W, 3) with sides of 1 or more")
    check_size(input_size)
