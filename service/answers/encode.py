"""A segmentation to the bytes of an answer, in any of the formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.answers.geojson import encode_contours
from service.answers.npy import encode_npy
from service.answers.options import AnswerOptions
from service.answers.schemas import AnswerFormat, LabelPalette
from service.answers.summary import summarize
from service.imaging.codec import encode_grey_png, encode_label_png, encode_rgb_png
from service.imaging.colorize import colorize, overlay
from service.imaging.segmentation import VOID, Segmentation
from service.inference.stopwatch import Stage
from service.model_directory.manifest import Manifest

Pixels = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and its tag; no content means that the client has it already."""

    content: bytes | None
    tag: str


def encode_answer(
    options: AnswerOptions,
    segmentation: Segmentation,
    manifest: Manifest,
    pixels: Pixels,
    seconds: Mapping[Stage, float],
) -> bytes:
    """Encode a segmentation.

    Args:
        options: What was asked for; ``classes`` has been applied to the segmentation.
        segmentation: Of any size.
        manifest: The model's names and colours.
        pixels: Gives the upright RGB image in the size of the segmentation; asked for overlays only.
        seconds: Stages so far.
    """
    labels = segmentation.labels
    # Colours up to VOID, so that it is black; without it the palette has the classes alone.
    palette = manifest.palette if options.classes is None else manifest.palette.ljust(3 * (VOID + 1), b"\0")
    encoders: dict[AnswerFormat, Callable[[], bytes]] = {
        AnswerFormat.LABELS: lambda: _label_png(labels, palette, options),
        AnswerFormat.COLOR: lambda: encode_rgb_png(colorize(labels, palette)),
        AnswerFormat.OVERLAY: lambda: encode_rgb_png(_overlay(pixels(), labels, palette, options)),
        AnswerFormat.CONFIDENCE: lambda: _confidence_png(segmentation),
        AnswerFormat.CONTOURS: lambda: encode_contours(labels, manifest),
        AnswerFormat.NPY: lambda: encode_npy(labels),
        AnswerFormat.JSON: lambda: _summary(segmentation, manifest, options, seconds),
    }
    return encoders[options.format]()


def _label_png(labels: NDArray[np.uint8], palette: bytes, options: AnswerOptions) -> bytes:
    return encode_grey_png(labels) if options.palette is LabelPalette.NONE else encode_label_png(labels, palette)


def _overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: bytes, options: AnswerOptions
) -> NDArray[np.uint8]:
    void = None if options.classes is None else VOID
    return overlay(pixels, labels, palette, options.alpha, void=void)


def _confidence_png(segmentation: Segmentation) -> bytes:
    assert segmentation.confidence is not None
    return encode_grey_png(segmentation.confidence)


def _summary(
    segmentation: Segmentation, manifest: Manifest, options: AnswerOptions, seconds: Mapping[Stage, float]
) -> bytes:
    timings_ms: dict[str, float] = {stage: round(1000 * duration, 1) for stage, duration in seconds.items()}
    summary = summarize(segmentation, manifest, classes=options.classes, rle=options.rle, timings_ms=timings_ms)
    # Masks are left out unless they were asked for.
    return summary.model_dump_json(exclude_unset=True).encode()
