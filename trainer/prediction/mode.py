"""How an image goes through a network to be evaluated: whole or by sliding window, at one scale or several, flipped.

Conventions are mmsegmentation's, whose recipes the release follows. Every view of the image gives logits, which are
resized to the image; the mean of their softmax over the views decides. Images are resized by the service's filter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from service.imaging.label_map import label_map
from service.imaging.resize import resize_to_input
from trainer.config import DataSection
from trainer.prediction.predictor import Infer, Predictor, infer_one
from trainer.prediction.sliding_window import Size, slide_logits

RELEASED_CROP = (640, 640)
MAX_SCALE = 8.0
# The released recipes resize to (2560, 640): a short side of 640, and a long one of at most four times that.
_MAX_ASPECT = 4
_BAND_ROWS = 64


class ModeError(ValueError):
    """A way of inference that contradicts itself, or that a network cannot run."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network, and what it takes.

    Attributes:
        infer: Runs it.
        input_size: The size that it was made for, or None if that is not known.
        fixed_size: It takes images of ``input_size`` only.
        max_batch_size: Images at once.
    """

    infer: Infer
    input_size: Size | None
    fixed_size: bool = False
    max_batch_size: int = 4


@dataclass(frozen=True, slots=True)
class Mode:
    """A way of inference; by default as the service: the image stretched to the network's input size, one pass.

    Attributes:
        slide: Windows of the image, which is resized only if ``short_side`` is given.
        crop: Window; by default 640x640 as released, or the input size of a network that takes no other.
        stride: From one window to the next; by default 19/20 of the crop, which is the release's 608 of 640.
        short_side: Resize the image to this short side and keep its ratio, in place of the input size or its own size.
        scales: Each a view of the image, at its size times this.
        flip: Each view also mirrored left to right.

    Raises:
        ModeError: A value out of range, or a window where none slides.
    """

    slide: bool = False
    crop: Size | None = None
    stride: Size | None = None
    short_side: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.slide and (self.crop or self.stride):
            raise ModeError("--crop and --stride are for --mode slide; whole images have none")
        if self.short_side is not None and self.short_side < 1:
            raise ModeError(f"the short side is {self.short_side}, expected 1 pixel or more")
        for name, size in (("crop", self.crop), ("stride", self.stride)):
            if size is not None and min(size) < 1:
                raise ModeError(f"the {name} is {_text(size)}, expected 1 pixel or more")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ModeError(f"the scales are {list(self.scales)}, expected one or more, none of them twice")
        for scale in self.scales:
            if not 0 < scale <= MAX_SCALE:
                raise ModeError(f"a scale is {scale:g}, expected above 0 and at most {MAX_SCALE:g}")

    @property
    def plain(self) -> bool:
        """One pass over the stretched image, as the service makes it; the only one that needs no logits."""
        return self == Mode()


def trained_mode(data: DataSection) -> Mode:
    """How a training run looks at its val split, as its configuration says."""
    short_side = min(data.input_size) if data.keep_ratio else None
    if data.evaluation == "slide":
        return Mode(True, data.crop_size, data.slide_stride, short_side)
    return Mode(short_side=short_side)


def mode_predictor(network: Network, mode: Mode) -> Predictor:
    """A predictor that runs a network in a mode.

    Of many views it holds the sum of their probabilities, (K, H, W) float32, and the logits of one.

    Raises:
        ModeError: The network cannot run that mode; the predictor itself raises it for an image smaller than a window
            whose size is fixed.
    """
    _check(network, mode)

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (image.shape[0], image.shape[1])
        views = _views(network, mode, image)
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


def keep_ratio(size: Size, short_side: float) -> Size:
    """A size scaled to a short side, or to four times that along the long side if it would be longer."""
    factor = min(short_side / min(size), _MAX_ASPECT * short_side / max(size))
    return _scaled(size, factor)


def _resized_rows(logits: Tensor, rows: Tensor, height: int) -> Tensor:
    """The given rows of (K, h, w) resized bilinearly to ``height`` rows: (K, len(rows), w)."""
    source = ((rows + 0.5) * (logits.shape[1] / height) - 0.5).clamp_min(0)
    above = source.floor().long()
    below = (above + 1).clamp_max(logits.shape[1] - 1)
    return torch.lerp(logits[:, above], logits[:, below], (source - above)[:, None])


def _views(network: Network, mode: Mode, image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
    """Logits (K, ·, ·) of each view, upright."""
    for scale in mode.scales:
        view = resize_to_input(image, _view_size(network, mode, (image.shape[0], image.shape[1]), scale))
        yield _logits(network, mode, view)
        if mode.flip:
            yield _logits(network, mode, np.ascontiguousarray(view[:, ::-1]))[..., ::-1]


def _view_size(network: Network, mode: Mode, size: Size, scale: float) -> Size:
    if mode.short_side is not None:
        return keep_ratio(size, mode.short_side * scale)
    if mode.slide or network.input_size is None:
        return _scaled(size, scale)
    return _scaled(network.input_size, scale)


def _scaled(size: Size, factor: float) -> Size:
    return max(1, math.floor(size[0] * factor + 0.5)), max(1, math.floor(size[1] * factor + 0.5))


def _logits(network: Network, mode: Mode, view: NDArray[np.uint8]) -> NDArray[np.float32]:
    if not mode.slide:
        return infer_one(network.infer, view)
    crop = _crop(network, mode)
    if network.fixed_size and (view.shape[0] < crop[0] or view.shape[1] < crop[1]):
        raise ModeError(
            f"the image is {_text(view.shape)} where windows are cut from it, smaller than the {_text(crop)} that the "
            "graph takes; give a larger --short-side or scale, or --mode whole"
        )
    return slide_logits(network.infer, view, crop, _stride(network, mode), max_batch_size=network.max_batch_size)


def _crop(network: Network, mode: Mode) -> Size:
    fixed = network.input_size if network.fixed_size else None
    return mode.crop or fixed or RELEASED_CROP


def _stride(network: Network, mode: Mode) -> Size:
    height, width = _crop(network, mode)
    return mode.stride or (height - height // 20, width - width // 20)


def _check(network: Network, mode: Mode) -> None:
    if mode.slide:
        _check_windows(network, mode)
    elif network.fixed_size and (mode.short_side is not None or mode.scales != (1.0,)):
        raise ModeError(
            f"the graph takes images of {_text(network.input_size)} only: --short-side and --scales need --mode slide, "
            "or the checkpoint that it came from"
        )
    elif network.input_size is None and mode.short_side is None:
        raise ModeError("the network does not tell its input size: give --short-side, or --mode slide")


def _check_windows(network: Network, mode: Mode) -> None:
    crop, stride = _crop(network, mode), _stride(network, mode)
    if network.fixed_size and crop != network.input_size:
        raise ModeError(f"the crop is {_text(crop)}, but the graph takes windows of {_text(network.input_size)} only")
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise ModeError(f"the stride {_text(stride)} is larger than the crop {_text(crop)}: it would leave gaps")


def _text(size: tuple[int, ...] | None) -> str:
    assert size is not None
    return f"{size[0]}x{size[1]}"
