"""A contact sheet: images beside their labels in colour, over a legend of the colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.imaging.colorize import overlay
from service.model_directory.manifest import ClassInfo
from trainer.datasets.base import Sample

COLUMNS = 2
CELL_WIDTH, CELL_HEIGHT = 320, 240
LINE = 20
GAP = 8
LABEL_ALPHA = 0.6
BACKGROUND, INK = (255, 255, 255), (32, 32, 32)


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample and the text above it."""

    caption: str
    sample: Sample


def contact_sheet(entries: Sequence[Entry], classes: Sequence[ClassInfo]) -> Image.Image:
    """A grid of images, each beside itself under its label's colours, over a legend; void is shown dark."""
    width = COLUMNS * (2 * CELL_WIDTH + 2 * GAP) + GAP
    rows = -(-len(entries) // COLUMNS)
    row_height = LINE + CELL_HEIGHT + GAP
    legend = _legend(classes, width)
    sheet = Image.new("RGB", (width, GAP + rows * row_height + legend.height), BACKGROUND)
    for place, entry in enumerate(entries):
        row, column = divmod(place, COLUMNS)
        _paste(sheet, entry, classes, GAP + column * (2 * CELL_WIDTH + 2 * GAP), GAP + row * row_height)
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def _paste(sheet: Image.Image, entry: Entry, classes: Sequence[ClassInfo], left: int, top: int) -> None:
    ImageDraw.Draw(sheet).text((left, top), _fitting(entry.caption, 2 * CELL_WIDTH), INK, _font())
    image, colored = thumbnails(entry.sample, classes)
    sheet.paste(image, (left, top + LINE))
    sheet.paste(colored, (left + image.width, top + LINE))


def thumbnails(sample: Sample, classes: Sequence[ClassInfo]) -> tuple[Image.Image, Image.Image]:
    """A sample within ``CELL_WIDTH`` x ``CELL_HEIGHT``: the image, and the image under its label's colours."""
    height, width = sample.labels.shape
    scale = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(sample.image).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    labels = Image.fromarray(sample.labels).resize(size, Image.Resampling.NEAREST)
    palette = bytes(channel for info in classes for channel in info.color).ljust(768, b"\0")
    colored = overlay(np.asarray(image), np.asarray(labels), palette, LABEL_ALPHA)
    return image, Image.fromarray(colored)


def _legend(classes: Sequence[ClassInfo], width: int) -> Image.Image:
    colors = {f"{info.id} {info.name}": info.color for info in classes} | {"void": (0, 0, 0)}
    column = min(width - GAP, max(int(_font().getlength(text)) for text in colors) + LINE + 2 * GAP)
    columns = max(1, (width - GAP) // column)
    legend = Image.new("RGB", (width, -(-len(colors) // columns) * LINE + 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for place, (text, color) in enumerate(colors.items()):
        left, top = GAP + place % columns * column, GAP + place // columns * LINE
        draw.rectangle((left, top, left + LINE - 6, top + LINE - 6), color, INK)
        draw.text((left + LINE, top - 1), _fitting(text, column - LINE), INK, _font())
    return legend


def _fitting(text: str, width: int) -> str:
    while _font().getlength(text) > width:
        text = f"…{text[2:]}"
    return text


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)
