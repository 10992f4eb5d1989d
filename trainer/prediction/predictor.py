"""Predictors: an image to its label map, through a network that gives logits.

Each view of the image gives logits, which are resized to the image; the mean of their softmax over the views decides.
Images are resized, and the logits of a single view become labels, by the service's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from service.model_directory.sizes import Size, format_size
from trainer.prediction.mode import SERVICE_MODE, PredictionMode, PredictionModeError
from trainer.prediction.sliding_window import Infer, slide_logits

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""An image (H, W, 3) uint8 to its label map (H, W) uint8."""

_BAND_ROWS = 64


@dataclass(frozen=True, slots=True)
class Network:
    """A network that gives logits, and the images that it takes.

    Attributes:
        infer: Runs it.
        input_size: The size that it was made for, or None if that is not known.
        fixed_size: Whether it takes images of ``input_size`` only.
        max_batch_size: The most images of one run.
    """

    infer: Infer
    input_size: Size | None
    fixed_size: bool = False
    max_batch_size: int = 4

    @property
    def required_size(self) -> Size | None:
        """The only size that it takes, or None if it takes any."""
        return self.input_size if self.fixed_size else None


def network_predictor(network: Network, mode: PredictionMode = SERVICE_MODE) -> Predictor:
    """A predictor that runs a network in a mode.

    Of many views it holds the sum of their probabilities, (K, H, W) float32, and the logits of one.

    Raises:
        PredictionModeError: The network cannot run that mode; the predictor itself raises it for an image smaller than
            a window whose size is fixed.
    """
    _check(network, mode)

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (image.shape[0], image.shape[1])
        views = _each_view(network, mode, image)
        if len(mode.scales) == 1 and not mode.flip:
            return label_map(next(views), size)
        total: Tensor | None = None
        for logits in views:
            total = torch.zeros(len(logits), *size) if total is None else total
            add_probabilities(total, torch.from_numpy(np.array(logits)))
        assert total is not None
        return total.argmax(0).to(torch.uint8).numpy()

    return predict


def add_probabilities(total: Tensor, logits: Tensor) -> None:
    """Resize logits (K, h, w) to (K, H, W), and add their softmax over K to ``total``; band by band of rows."""
    height, width = total.shape[1:]
    for first in range(0, height, _BAND_ROWS):
        rows = _resized_rows(logits, torch.arange(first, min(first + _BAND_ROWS, height)), height)
        band = interpolate(rows[None], (rows.shape[1], width), mode="bilinear", align_corners=False)[0]
        total[:, first : first + _BAND_ROWS] += band.softmax(0)


def _resized_rows(logits: Tensor, rows: Tensor, height: int) -> Tensor:
    """The given rows of (K, h, w) resized bilinearly to ``height`` rows: (K, len(rows), w)."""
    source = ((rows + 0.5) * (logits.shape[1] / height) - 0.5).clamp_min(0)
    above = source.floor().long()
    below = (above + 1).clamp_max(logits.shape[1] - 1)
    return torch.lerp(logits[:, above], logits[:, below], (source - above)[:, None])


def _each_view(network: Network, mode: PredictionMode, image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Logits (K, ·, ·) of each view, upright."""
    for scale in mode.scales:
        size = mode.view_size((image.shape[0], image.shape[1]), network.input_size, scale)
        view = resize_to_input(image, size)
        yield _logits(network, mode, view)
        if mode.flip:
            yield _logits(network, mode, np.ascontiguousarray(view[:, ::-1]))[..., ::-1]


def _logits(network: Network, mode: PredictionMode, view: NDArray[np.uint8]) -> NDArray[np.float32]:
    if not mode.slide:
        logits: NDArray[np.float32] = network.infer(view[None])[0]
        return logits
    window, stride = mode.window(network.required_size), mode.window_stride(network.required_size)
    height, width = view.shape[:2]
    if network.fixed_size and (height < window[0] or width < window[1]):
        raise PredictionModeError(
            f"the image is {format_size((height, width))} where windows are cut from it, smaller than the "
            f"{format_size(window)} that the graph takes; give a larger --short-side or scale, or --mode whole"
        )
    return slide_logits(network.infer, view, window, stride, max_batch_size=network.max_batch_size)


def _check(network: Network, mode: PredictionMode) -> None:
    required = network.required_size
    if mode.slide:
        _check_windows(required, mode)
    elif required is not None and (mode.short_side is not None or mode.scales != (1.0,)):
        raise PredictionModeError(
            f"the graph takes images of {format_size(required)} only: --short-side and --scales need --mode slide, or "
            "the checkpoint that it came from"
        )
    elif network.input_size is None and mode.short_side is None:
        raise PredictionModeError("the network does not state its input size: give --short-side, or --mode slide")


def _check_windows(required: Size | None, mode: PredictionMode) -> None:
    window, stride = mode.window(required), mode.window_stride(required)
    if required is not None and window != required:
        raise PredictionModeError(
            f"the crop is {format_size(window)}, but the graph takes windows of {format_size(required)} only"
        )
    if stride[0] > window[0] or stride[1] > window[1]:
        raise PredictionModeError(
            f"the stride {format_size(stride)} is larger than the crop {format_size(window)}: it would leave gaps"
        )
