"""The service's own way from an image to its labels, written out: stretch, run, enlarge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input


def stretched_labels(
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]], input_size: tuple[int, int], image: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The label map of an image (H, W, 3) from one pass over it at the input size."""
    (logits,) = infer(resize_to_input(image, input_size)[None])
    return label_map(logits, (image.shape[0], image.shape[1]))
