"""Prediction modes: an image whole or by sliding window, at one scale or several, mirrored or not.

The conventions are mmsegmentation's, whose recipes the release follows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.model_directory.sizes import Size, format_size
from trainer.config import DataSection

RELEASED_CROP = (640, 640)
MAX_SCALE = 8.0
# The released recipes resize to (2560, 640): a short side of 640, and a long one of at most four times that.
_MAX_ASPECT = 4


class PredictionModeError(ValueError):
    """A prediction mode that contradicts itself, or that a network cannot run."""


@dataclass(frozen=True, slots=True)
class PredictionMode:
    """The way from an image to a network's inputs; by default one input, the image stretched to the input size.

    Attributes:
        slide: Windows of the image, which is resized only if ``short_side`` is given.
        crop: Window; by default 640x640 as released, or the input size of a network that takes no other.
        stride: From one window to the next; by default 19/20 of the crop, which is the release's 608 of 640.
        short_side: Resize the image to this short side and keep its ratio, in place of the input size or its own size.
        scales: Each a view of the image, at its size times this.
        flip: Each view also mirrored left to right.

    Raises:
        PredictionModeError: A value is out of range, or ``crop`` or ``stride`` is given without ``slide``.
    """

    slide: bool = False
    crop: Size | None = None
    stride: Size | None = None
    short_side: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.slide and (self.crop or self.stride):
            raise PredictionModeError("--crop and --stride are for --mode slide; whole images have none")
        if self.short_side is not None and self.short_side < 1:
            raise PredictionModeError(f"the short side is {self.short_side}, expected 1 pixel or more")
        for name, size in (("crop", self.crop), ("stride", self.stride)):
            if size is not None and min(size) < 1:
                raise PredictionModeError(f"the {name} is {format_size(size)}, expected 1 pixel or more")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise PredictionModeError(f"the scales are {list(self.scales)}, expected one or more, each of them once")
        for scale in self.scales:
            if not 0 < scale <= MAX_SCALE:
                raise PredictionModeError(f"a scale is {scale:g}, expected above 0 and at most {MAX_SCALE:g}")

    def view_size(self, image_size: Size, input_size: Size | None, scale: float) -> Size:
        """The size that an image is resized to for the view at a scale."""
        if self.short_side is not None:
            return keep_ratio(image_size, self.short_side * scale)
        return _scaled(image_size if self.slide or input_size is None else input_size, scale)

    def window(self, fixed_size: Size | None) -> Size:
        """The sliding window, for a network that takes images of ``fixed_size`` only or of any size."""
        return self.crop or fixed_size or RELEASED_CROP

    def window_stride(self, fixed_size: Size | None) -> Size:
        """The pixels from one window to the next."""
        height, width = self.window(fixed_size)
        return self.stride or (height - height // 20, width - width // 20)


SERVICE_MODE = PredictionMode()
"""One pass over the stretched image, as the service runs it; the only mode that needs no logits."""


def check_labels_suffice(mode: PredictionMode, model: str) -> None:
    """Refuse a mode that needs logits, for a model that gives labels only.

    Raises:
        PredictionModeError: It is another mode than the service's.
    """
    if mode != SERVICE_MODE:
        raise PredictionModeError(
            f"{model} gives labels, but sliding windows, other sizes, scales and flips need logits: evaluate the "
            "checkpoint, or a model directory whose graph gives logits"
        )


def validation_mode(data: DataSection) -> PredictionMode:
    """The mode in which a training run evaluates its val split."""
    short_side = min(data.input_size) if data.keep_ratio else None
    if data.evaluation == "slide":
        return PredictionMode(True, data.crop_size, data.slide_stride, short_side)
    return PredictionMode(short_side=short_side)


def keep_ratio(size: Size, short_side: float) -> Size:
    """A size scaled to a short side, or to four times that along the long side if it would be longer."""
    factor = min(short_side / min(size), _MAX_ASPECT * short_side / max(size))
    return _scaled(size, factor)


def _scaled(size: Size, factor: float) -> Size:
    return max(1, math.floor(size[0] * factor + 0.5)), max(1, math.floor(size[1] * factor + 0.5))
