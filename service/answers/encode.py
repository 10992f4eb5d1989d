"""Encoders of answers: a segmentation to bytes, in any of the formats."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.answers.annotations import encode_annotations
from service.answers.geojson import encode_contours
from service.answers.options import AnswerOptions
from service.answers.schemas import ANNOTATIONS, AnswerFormat, LabelPalette, Processing
from service.answers.summary import summarize
from service.imaging.codec import encode_grey_png, encode_label_png, encode_rgb_png
from service.imaging.colorize import colorize, overlay
from service.imaging.cutout import cut_out
from service.imaging.png_writer import write_png
from service.imaging.segmentation import VOID, Segmentation
from service.model_directory.manifest import Manifest

Pixels = Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """Body and tag of an answer; ``content`` is None if the client has it already."""

    content: bytes | None
    tag: str


def encode_answer(
    options: AnswerOptions,
    segmentation: Segmentation,
    manifest: Manifest,
    *,
    processing: Processing,
    pixels: Pixels,
    seconds: Mapping[str, float],
) -> bytes:
    """Encode a segmentation.

    Args:
        options: Options of the answer; ``classes`` has been applied to the segmentation.
        segmentation: Of any size.
        manifest: The model's names and colours.
        processing: How the image went through the model.
        pixels: Gives the upright RGB image in the size of the segmentation; called for overlays and cutouts only.
        seconds: Seconds of each stage so far.
    """
    labels = segmentation.labels
    # Colours up to VOID, so that it is black; without it the palette has the classes alone.
    palette = manifest.palette if options.classes is None else manifest.palette.ljust(3 * (VOID + 1), b"\0")
    encoders: dict[AnswerFormat, Callable[[], bytes]] = {
        AnswerFormat.LABELS: lambda: _label_png(labels, palette, options),
        AnswerFormat.COLOR: lambda: encode_rgb_png(colorize(labels, palette)),
        AnswerFormat.OVERLAY: lambda: encode_rgb_png(_overlay(pixels(), labels, palette, options)),
        AnswerFormat.CONFIDENCE: lambda: _confidence_png(segmentation),
        AnswerFormat.CUTOUT: lambda: _rgba_png(cut_out(pixels(), labels, VOID)),
        AnswerFormat.CONTOURS: lambda: encode_contours(labels, manifest, options.simplify),
        **dict.fromkeys(ANNOTATIONS, lambda: encode_annotations(labels, manifest, options)),
        AnswerFormat.NPY: lambda: _npy(labels),
        AnswerFormat.JSON: lambda: _summary_json(segmentation, processing, manifest, options, seconds),
    }
    return encoders[options.format]()


def _label_png(labels: NDArray[np.uint8], palette: bytes, options: AnswerOptions) -> bytes:
    return encode_grey_png(labels) if options.palette is LabelPalette.NONE else encode_label_png(labels, palette)


def _overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.uint8], palette: bytes, options: AnswerOptions
) -> NDArray[np.uint8]:
    void = None if options.classes is None else VOID
    return overlay(pixels, labels, palette, options.alpha, void=void)


def _rgba_png(pixels: NDArray[np.uint8]) -> bytes:
    return write_png(pixels.reshape(len(pixels), -1), colour_type=6)


def _confidence_png(segmentation: Segmentation) -> bytes:
    assert segmentation.confidence is not None
    return encode_grey_png(segmentation.confidence)


def _npy(labels: NDArray[np.uint8]) -> bytes:
    """Make a file that ``numpy.load`` reads as (H, W) uint8."""
    stream = io.BytesIO()
    np.save(stream, labels, allow_pickle=False)
    return stream.getvalue()


def _summary_json(
    segmentation: Segmentation,
    processing: Processing,
    manifest: Manifest,
    options: AnswerOptions,
    seconds: Mapping[str, float],
) -> bytes:
    summary = summarize(
        segmentation,
        processing,
        manifest,
        classes=options.classes,
        rle=options.rle,
        timings_ms={stage: round(1000 * duration, 1) for stage, duration in seconds.items()},
    )
    # Masks are left out unless they were asked for.
    return summary.model_dump_json(exclude_unset=True).encode()
