"""One input through PyTorch and ONNX Runtime: largest error of the logits, and share of equal labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image

from model_export.exportable import INPUT_NAME, OUTPUT_NAME, Exportable
from service.preprocess import resize_to_input
from trainer.datasets import read_image

MAX_LOGIT_ERROR = 1e-3
MIN_EQUAL_LABELS = 0.999


class ParityError(RuntimeError):
    """An exported graph that does not agree with the network that it came from."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of two runtimes: largest absolute error of a logit, and share of equal labels at stride 4, 0..1."""

    max_logit_error: float
    equal_labels: float

    def check(self) -> None:
        """Raise ``ParityError`` beyond the bounds; NaN is beyond."""
        if not (self.max_logit_error <= MAX_LOGIT_ERROR and self.equal_labels >= MIN_EQUAL_LABELS):
            raise ParityError(
                f"PyTorch and ONNX Runtime differ: largest logit error {self.max_logit_error:.2e} (limit "
                f"{MAX_LOGIT_ERROR:.0e}), equal labels {self.equal_labels:.3%} (at least {MIN_EQUAL_LABELS:.1%})"
            )


def compare(exportable: Exportable, graph: Path, images: Sequence[NDArray[np.uint8]]) -> Parity:
    """Run images (H, W, 3) uint8 of the graph's size one by one, then the first two as a batch, through both."""
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    batches = [image[None] for image in images]
    if len(images) > 1:
        batches.append(np.stack(images[:2]))
    errors, equal = [], []
    for batch in batches:
        with torch.inference_mode():
            expected = exportable(torch.from_numpy(np.array(batch))).numpy()
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        errors.append(float(np.abs(expected - logits).max()))
        equal.append(float((expected.argmax(1) == logits.argmax(1)).mean()))
    return Parity(max(errors), float(np.mean(equal)))


def sample_images(folder: Path | None, size: tuple[int, int], count: int) -> list[NDArray[np.uint8]]:
    """The first ``count`` images of a folder, as the service would resize them, or generated ones without a folder.

    Raises:
        ValueError: The folder holds no image, or ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images to compare on is {count}, expected 1 or more")
    if folder is None:
        return generated_images(size, count)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    if not files:
        raise ValueError(f"{folder} holds no PNG or JPEG image")
    return [resize_to_input(read_image(path), size) for path in files[:count]]


def generated_images(size: tuple[int, int], count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth random images (H, W, 3) uint8, for want of real ones: noise at several scales."""
    rng = np.random.default_rng(seed)
    return [_smooth_noise(size, rng) for _ in range(count)]


def _smooth_noise(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    total = np.zeros((*size, 3), np.float64)
    for cells in (4, 16, 64):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.rint(total / 3).astype(np.uint8)
