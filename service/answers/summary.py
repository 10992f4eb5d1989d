"""Statistics of a segmentation, class by class: the body of ``format=json``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.answers.rle import class_rles
from service.answers.schemas import ClassSummary, ImageSize, ModelInfo, Processing, RunLengths, SegmentationSummary
from service.imaging.segmentation import Segmentation, class_counts, mean_confidences
from service.model_directory.manifest import ClassInfo, Manifest


def summarize(
    segmentation: Segmentation,
    processing: Processing,
    manifest: Manifest,
    *,
    classes: Sequence[int] | None,
    rle: bool,
    timings_ms: dict[str, float],
) -> SegmentationSummary:
    """Compute pixels, share and mean confidence of every class, or of ``classes``.

    Args:
        segmentation: Of the image.
        processing: How the image went through the model.
        manifest: For names and colours.
        classes: Ids; None for all.
        rle: True to add masks.
        timings_ms: Milliseconds by stage.
    """
    labels = segmentation.labels
    height, width = labels.shape
    infos = [info for info in manifest.classes if classes is None or info.id in classes]
    counts = class_counts(labels, manifest.num_classes).tolist()
    confidences = _confidences(segmentation, counts)
    masks = class_rles(labels, [info.id for info in infos]) if rle else {}
    return SegmentationSummary(
        size=ImageSize(width=width, height=height),
        model=ModelInfo(name=manifest.name, version=manifest.version),
        classes=[
            _class_summary(info, counts[info.id], labels, confidences[info.id], masks.get(info.id)) for info in infos
        ],
        processing=processing,
        timings_ms=timings_ms,
    )


def _confidences(segmentation: Segmentation, counts: Sequence[int]) -> list[float | None]:
    if segmentation.confidence is None:
        return [None] * len(counts)
    means = mean_confidences(segmentation.labels, segmentation.confidence, len(counts)).tolist()
    return [round(mean, 4) if count else None for mean, count in zip(means, counts, strict=True)]


def _class_summary(
    info: ClassInfo, pixels: int, labels: NDArray[np.uint8], confidence: float | None, counts: str | None
) -> ClassSummary:
    height, width = labels.shape
    optional = {} if counts is None else {"rle": RunLengths(size=(height, width), counts=counts)}
    return ClassSummary(
        id=info.id,
        name=info.name,
        color=info.color,
        pixels=pixels,
        share=pixels / labels.size,
        confidence=confidence,
        **optional,
    )
