"""An image to the size of the model's input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize_to_input(pixels: NDArray[np.uint8], input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Stretch an image to the model's input with Pillow's bilinear filter, which averages when it shrinks.

    The aspect ratio is not kept: the label map is made at the original size, which is the inverse stretch.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        input_size: (height, width) in pixels.

    Returns:
        (height, width, 3) uint8; the same array where the size is right already.
    """
    if pixels.shape[:2] == input_size:
        return pixels
    height, width = input_size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
