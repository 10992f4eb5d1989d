"""A label map to the bytes of an answer, in any of the formats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model_export.manifest import Manifest
from service.colorize import colorize, overlay
from service.image_codec import encode_label_png, encode_rgb_png
from service.postprocess import class_counts
from service.schemas import AnswerFormat, ClassSummary, ImageSize, ModelInfo, SegmentationSummary

OVERLAY_ALPHA = 0.5
Pixels = Callable[[], NDArray[np.uint8]]


def encode_answer(answer_format: AnswerFormat, labels: NDArray[np.uint8], manifest: Manifest, pixels: Pixels) -> bytes:
    """Encode (H, W) class ids; ``pixels`` gives the upright RGB image (H, W, 3) and is asked for overlays only."""
    match answer_format:
        case AnswerFormat.LABELS:
            return encode_label_png(labels, manifest.palette)
        case AnswerFormat.COLOR:
            return encode_rgb_png(colorize(labels, manifest.palette))
        case AnswerFormat.OVERLAY:
            return encode_rgb_png(overlay(pixels(), labels, manifest.palette, OVERLAY_ALPHA))
        case AnswerFormat.JSON:
            return summarize(labels, manifest).model_dump_json().encode()


def summarize(labels: NDArray[np.uint8], manifest: Manifest) -> SegmentationSummary:
    """Pixels and share of every class in (H, W) class ids."""
    height, width = labels.shape
    counts = class_counts(labels, manifest.num_classes).tolist()
    return SegmentationSummary(
        size=ImageSize(width=width, height=height),
        model=ModelInfo(name=manifest.name, version=manifest.version),
        classes=[
            ClassSummary(id=info.id, name=info.name, color=info.color, pixels=count, share=count / labels.size)
            for info, count in zip(manifest.classes, counts, strict=True)
        ],
    )
