"""Exported graphs against PyTorch: the same images through both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image

from model_export.agreement import Agreement, labels_agreement, logits_agreement, worst
from model_export.exportable import INPUT_NAME, Exportable
from model_export.manifest import LOGITS_STRIDE, GraphInfo
from model_export.sizes import Size
from service.label_map import label_map
from service.preprocess import resize_to_input
from trainer.datasets import read_image

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def pytorch_logits(exportable: Exportable, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """PyTorch's logits (n, K, h, w) float32 of images (H, W, 3) uint8, one by one."""
    with torch.inference_mode():
        return np.concatenate([exportable(torch.from_numpy(np.array(image[None]))).numpy() for image in images])


def labels_of_logits(logits: NDArray[np.float32], graph: GraphInfo) -> NDArray[np.uint8]:
    """Labels (n, h', w') uint8 of logits (n, K, h, w), at the stride of a graph."""
    if graph.output_stride == LOGITS_STRIDE:
        cells: NDArray[np.uint8] = logits.argmax(1).astype(np.uint8)
        return cells
    return np.stack([label_map(image, graph.output_size) for image in logits])


def graph_agreement(
    path: Path, graph: GraphInfo, images: Sequence[NDArray[np.uint8]], logits: NDArray[np.float32]
) -> Agreement:
    """ONNX Runtime on the CPU against PyTorch's logits of these images: one by one, then the first two as a batch."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = [[index] for index in range(len(images))] + ([[0, 1]] if len(images) > 1 else [])
    agreements = []
    for batch in batches:
        (rows,) = session.run(None, {INPUT_NAME: np.stack([images[index] for index in batch])})
        if graph.output == "logits":
            agreements.append(logits_agreement(logits[batch], rows))
        else:
            agreements.append(labels_agreement(labels_of_logits(logits[batch], graph), rows))
    return worst(agreements)


def sample_images(source: Path | None, size: Size, count: int) -> list[NDArray[np.uint8]]:
    """The first ``count`` images of a folder or an image file, as the service would resize them, or generated ones.

    Raises:
        ValueError: The folder holds no image, or ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of images to compare on is {count}, expected 1 or more")
    if source is None:
        return generated_images(size, count)
    files = image_files(source)[:count]
    return [resize_to_input(read_image(path), size) for path in files]


def image_files(source: Path) -> list[Path]:
    """The PNG and JPEG files of a folder, in the order of their names; or the one file that ``source`` is.

    Raises:
        ValueError: There is none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"{source} does not exist, expected an image or a folder of images")
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{source} holds no PNG or JPEG image")
    return files


def generated_images(size: Size, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Smooth random images (H, W, 3) uint8, for want of real ones: noise at several scales."""
    rng = np.random.default_rng(seed)
    return [_smooth_noise(size, rng) for _ in range(count)]


def _smooth_noise(size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    total = np.zeros((*size, 3), np.float64)
    for cells in (4, 16, 64):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.rint(total / 3).astype(np.uint8)
