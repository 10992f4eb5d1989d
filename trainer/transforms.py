"""Augmentations that move an image and its label map together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from trainer.datasets import IGNORE_INDEX, Sample

PADDING_GREY = 127


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A random view of a sample: scale, crop, flip, colour.

    Attributes:
        input_size: (height, width) that the model will see whole images at; scale 1 is this size.
        crop_size: (height, width) of a view.
        scale: Range of the random scale, drawn log-uniformly.
        jitter: Largest relative change of brightness, contrast and saturation.
        gamma: Range of a random exponent of the pixel values, drawn log-uniformly; above 1 darkens.
        tint: Largest relative change of red, green and blue, each separately.
        flip: Chance of a horizontal flip.
        class_views: Chance that a view is around a pixel of a class drawn evenly from those of the image.
        keep_ratio: Whether at scale 1 the image's short side is that of ``input_size``, its ratio kept.
    """

    input_size: tuple[int, int]
    crop_size: tuple[int, int]
    scale: tuple[float, float]
    jitter: float
    flip: float = 0.5
    keep_ratio: bool = False
    class_views: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    tint: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """A view of ``crop_size``; pixels outside the image are grey and ignored."""
        image, labels = self._scaled_crop(sample, rng)
        image = _jitter(image, self.jitter, rng)
        if self.gamma != (1, 1):
            image = _power(image, float(np.exp(rng.uniform(*np.log(self.gamma)))))
        if self.tint:
            image = _scale_channels(image, 1 + rng.uniform(-self.tint, self.tint, 3))
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return Sample(np.ascontiguousarray(image), np.ascontiguousarray(labels))

    def useful_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of an image, (height, width), beyond which no view shows its pixels: that of the largest scale."""
        most = self._factors(height, width) * max(self.scale)
        down, across = np.ceil(np.minimum(most, 1) * (height, width) - 1e-6).astype(int).tolist()
        return down, across

    def _scaled_crop(self, sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        height, width = sample.labels.shape
        factors = self._factors(height, width) * np.exp(rng.uniform(*np.log(self.scale)))
        window = np.array(self.crop_size) / factors  # the source pixels that fill a view
        top, left = self._corner(sample.labels, window, rng)
        box = np.array((left, top, left + window[1], top + window[0]))
        inside = np.clip(box, 0, (width, height, width, height))
        target = np.rint((inside - box[[0, 1, 0, 1]]) * factors[[1, 0, 1, 0]]).astype(int)
        first = np.minimum(target[:2], (self.crop_size[1] - 1, self.crop_size[0] - 1))
        x0, y0, x1, y1 = (int(side) for side in (*first, *np.maximum(target[2:], first + 1)))  # a pixel or more
        size = (x1 - x0, y1 - y0)
        image = np.full((*self.crop_size, 3), PADDING_GREY, np.uint8)
        labels = np.full(self.crop_size, IGNORE_INDEX, np.uint8)
        region = tuple(inside)
        bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        image[y0:y1, x0:x1] = np.asarray(Image.fromarray(sample.image).resize(size, bilinear, box=region))
        labels[y0:y1, x0:x1] = np.asarray(Image.fromarray(sample.labels).resize(size, nearest, box=region))
        return image, labels

    def _corner(
        self, labels: NDArray[np.uint8], window: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Top and left of a window of the source, anywhere inside it or around a pixel of a class."""
        room = np.array(labels.shape) - window
        low, high = np.minimum(room, 0), np.maximum(room, 0)
        if self.class_views and rng.random() < self.class_views:
            classes = np.setdiff1d(labels, IGNORE_INDEX)
            if len(classes):
                rows, columns = np.nonzero(labels == rng.choice(classes))
                chosen = rng.integers(len(rows))
                pixel = np.array((rows[chosen], columns[chosen]))
                return np.clip(pixel - rng.uniform(size=2) * window, low, high)
        return rng.uniform(low, high)

    def _factors(self, height: int, width: int) -> NDArray[np.float64]:
        """Pixels of scale 1 per pixel of the image, vertical and horizontal."""
        if self.keep_ratio:
            return np.full(2, min(self.input_size) / min(height, width))
        return np.array(self.input_size) / (height, width)


def _jitter(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for index in rng.permutation(len(enhancers)):
        picture = enhancers[index](picture).enhance(1 + rng.uniform(-strength, strength))
    return np.array(picture)


def _power(image: NDArray[np.uint8], exponent: float) -> NDArray[np.uint8]:
    curve = np.rint(255 * np.linspace(0, 1, 256) ** exponent).astype(np.uint8)
    return curve[image]


def _scale_channels(image: NDArray[np.uint8], gains: NDArray[np.float64]) -> NDArray[np.uint8]:
    curves = np.rint(np.arange(256)[:, None] * gains).clip(0, 255).astype(np.uint8)
    return np.stack([curves[image[..., channel], channel] for channel in range(3)], axis=2)


def mix_classes(below: Sample, above: Sample, rng: np.random.Generator) -> Sample:
    """Lay half of the classes of one view, drawn at random, over another of its size (ClassMix, Olsson et al. 2021).

    A thing then stands where its surroundings do not give it away. Void is never laid over.
    """
    classes = np.setdiff1d(above.labels, IGNORE_INDEX)
    chosen = rng.choice(classes, (len(classes) + 1) // 2, replace=False)
    mask = np.isin(above.labels, chosen)
    image = np.where(mask[..., None], above.image, below.image)
    return Sample(image, np.where(mask, above.labels, below.labels))
