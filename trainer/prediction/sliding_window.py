"""Logits of an image of any size from windows: the sliding-window inference of mmsegmentation, as in the release.

Windows are a stride apart, the last of a row or column ends with the image, and logits are averaged where windows
overlap. A side that is smaller than the window makes the window smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from service.model_directory.sizes import Size

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (B, h, w, 3) uint8 that a network takes to logits (B, K, ceil(h / 4), ceil(w / 4))."""


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Offsets of the windows along a side of ``length`` pixels, at least as long as the window."""
    return [*range(0, length - window, stride), length - window]


def slide_logits(
    infer: Infer, image: NDArray[np.uint8], crop: Size, stride: Size, *, max_batch_size: int = 4
) -> NDArray[np.float32]:
    """Logits of an image (H, W, 3) from windows of at most ``crop``.

    One window at a time is resized to pixels, and ``max_batch_size`` go through the network at once: the memory is that
    of the result.

    Returns:
        (K, H, W) float32; where one window holds the whole image, its logits at the network's stride.
    """
    height, width = min(crop[0], image.shape[0]), min(crop[1], image.shape[1])
    starts = [window_starts(*sides) for sides in zip(image.shape[:2], (height, width), stride, strict=True)]
    corners = list(product(*starts))
    windows = [image[top : top + height, left : left + width] for top, left in corners]
    if len(windows) == 1:
        return next(_each_logits(infer, windows, max_batch_size))
    counts = np.zeros(image.shape[:2], np.float32)
    total: NDArray[np.float32] | None = None
    for (top, left), logits in zip(corners, _each_logits(infer, windows, max_batch_size), strict=True):
        if total is None:
            total = np.zeros((len(logits), *image.shape[:2]), np.float32)
        total[:, top : top + height, left : left + width] += _to_pixels(logits, (height, width))
        counts[top : top + height, left : left + width] += 1
    assert total is not None
    total /= counts
    return total


def _each_logits(
    infer: Infer, windows: Sequence[NDArray[np.uint8]], max_batch_size: int
) -> Iterator[NDArray[np.float32]]:
    """Logits (K, h, w) of each window, from batches of them."""
    for first in range(0, len(windows), max_batch_size):
        yield from infer(np.stack(windows[first : first + max_batch_size]))


def _to_pixels(logits: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Logits (K, h, w) resized bilinearly."""
    resized = interpolate(torch.from_numpy(np.array(logits))[None], size, mode="bilinear", align_corners=False)
    return np.asarray(resized[0].numpy())
