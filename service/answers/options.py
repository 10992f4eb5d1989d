"""Options of an answer: the parameters of a request, checked against the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from PIL import ImageColor

from service.answers.negotiation import OFFERS, negotiate
from service.answers.schemas import (
    ANNOTATIONS,
    MAX_NAME,
    AnswerFormat,
    AnswerSize,
    InputMode,
    LabelPalette,
    SegmentQuery,
)
from service.errors import InvalidParameter
from service.imaging.segmentation import VOID
from service.model_directory.manifest import LOGITS_STRIDE, GraphInfo, Manifest
from service.model_directory.sizes import format_size

Rgb = tuple[int, int, int]
UNNAMED = "image"


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """Everything that an answer depends on besides image and model; its ``repr`` identifies it.

    Attributes:
        format: Form of the answer.
        media_type: Its content type.
        palette: Colours of a PNG of labels.
        alpha: Weight of the colours in overlays, 0..1.
        classes: Ids of the classes to keep, ascending; None for all.
        size: Size of the answer: of the image, or of the model's input.
        mode: Way of the image through the model.
        background: RGB behind transparent pixels, 0..255.
        rle: True to add the masks to JSON.
        simplify: Largest distance in pixels from a dropped corner of a polygon to the new border.
        name: Path or address of the image in files of annotation tools; empty elsewhere.
    """

    format: AnswerFormat = AnswerFormat.LABELS
    media_type: str = AnswerFormat.LABELS.media_type
    palette: LabelPalette = LabelPalette.CLASSES
    alpha: float = 0.5
    classes: tuple[int, ...] | None = None
    size: AnswerSize = AnswerSize.INPUT
    mode: InputMode = InputMode.RESIZE
    background: Rgb = (255, 255, 255)
    rle: bool = False
    simplify: float = 0
    name: str = ""

    @property
    def needs_confidence(self) -> bool:
        """True if the answer has the model's confidence, as far as the graph gives it."""
        return self.format in {AnswerFormat.CONFIDENCE, AnswerFormat.JSON}

    def named(self, name: str) -> AnswerOptions:
        """The same options with an image's own name, if the answer states a name and the request gave none."""
        needs_name = self.format in ANNOTATIONS and self.name == UNNAMED
        return replace(self, name=name[-MAX_NAME:]) if needs_name and name else self


def resolve_options(query: SegmentQuery, accept: str | None, manifest: Manifest, graph: GraphInfo) -> AnswerOptions:
    """Check the parameters of a request.

    Args:
        query: The parameters as they came.
        accept: The ``Accept`` header, which decides on the format where no parameter does.
        manifest: The model, for its classes.
        graph: The graph that serves; it decides which formats are available.

    Raises:
        InvalidParameter: An unknown class, a background that is not a colour, or a format or mode that the graph cannot
            give.
        NotAcceptable: See ``negotiate``.
    """
    if query.answer_format is None:
        media_type, answer_format = negotiate(accept, OFFERS, "format")
    else:
        media_type, answer_format = query.answer_format.media_type, query.answer_format
    if not _is_available(answer_format, graph):
        raise InvalidParameter(
            f"format={answer_format} needs scores: {graph.file} gives labels without scores; serve a graph exported "
            "with --output logits",
            extra={"parameter": "format", "value": str(answer_format)},
        )
    classes = _classes(query.classes, manifest)
    if answer_format is AnswerFormat.CUTOUT and classes is None:
        raise InvalidParameter(
            "format=cutout needs the parameter classes: the classes that stay in the picture; this model has: "
            f"{', '.join(info.name for info in manifest.classes)}",
            extra={"parameter": "classes", "value": None},
        )
    return AnswerOptions(
        format=answer_format,
        media_type=media_type,
        palette=query.palette,
        alpha=query.alpha,
        classes=classes,
        size=query.size,
        mode=_mode(query, graph),
        background=_colour(query.background),
        rle=query.rle,
        simplify=query.simplify,
        name=(query.name or UNNAMED) if answer_format in ANNOTATIONS else "",
    )


def _mode(query: SegmentQuery, graph: GraphInfo) -> InputMode:
    if query.mode is InputMode.TILE:
        check_tiles(graph)
        if query.size is AnswerSize.MODEL:
            raise InvalidParameter(
                "size=model cannot be combined with mode=tile: windows are blended at the size of the image; "
                "leave out size or mode",
                extra={"parameter": "size", "value": "model"},
            )
    return query.mode


def check_tiles(graph: GraphInfo) -> None:
    """Check that a graph can segment an image in windows, as ``mode=tile`` asks for.

    Raises:
        InvalidParameter: Its outputs cannot be blended, or its windows do not fit on the grid of the logits' cells.
    """
    if graph.output != "logits":
        raise InvalidParameter(
            f"mode=tile needs logits: {graph.file} gives {graph.output}, which cannot be blended; use mode=resize, or "
            "serve a graph exported with --output logits",
            extra={"parameter": "mode", "value": "tile"},
        )
    if any(side % LOGITS_STRIDE for side in graph.input_size):
        raise InvalidParameter(
            f"mode=tile needs sides that are multiples of {LOGITS_STRIDE}: {graph.file} is "
            f"{format_size(graph.input_size)}; use mode=resize, or serve a graph of another size",
            extra={"parameter": "mode", "value": "tile"},
        )


def available_formats(graph: GraphInfo) -> list[AnswerFormat]:
    """List the formats that the outputs of a graph suffice for."""
    return [known for known in AnswerFormat if _is_available(known, graph)]


def _is_available(answer_format: AnswerFormat, graph: GraphInfo) -> bool:
    return graph.output == "logits" or answer_format is not AnswerFormat.CONFIDENCE


def available_modes(graph: GraphInfo) -> list[InputMode]:
    """List the modes that a graph can be used in."""
    try:
        check_tiles(graph)
    except InvalidParameter:
        return [InputMode.RESIZE]
    return list(InputMode)


def _classes(values: Sequence[str] | None, manifest: Manifest) -> tuple[int, ...] | None:
    if not values:
        return None
    if manifest.num_classes > VOID:
        raise InvalidParameter(
            f"classes is {', '.join(values)!r}: the model uses all 256 ids, and none is left for the pixels of other "
            "classes; leave out classes",
            extra={"parameter": "classes", "value": ",".join(values)},
        )
    ids = {info.name.casefold(): info.id for info in manifest.classes}
    ids.update((str(info.id), info.id) for info in manifest.classes)
    return tuple(sorted({class_id for value in values for class_id in _ids_of(value, ids, manifest)}))


def _ids_of(value: str, ids: dict[str, int], manifest: Manifest) -> list[int]:
    """Give the ids of one value of ``classes``: one class, whose name may hold commas, or several."""
    whole = ids.get(value.strip().casefold())
    if whole is not None:
        return [whole]
    names = [name.strip() for name in value.split(",")]
    known = [info.name for info in manifest.classes]
    for name in names:
        if name.casefold() not in ids:
            raise InvalidParameter(
                f"unknown class {name!r}; this model has: {', '.join(known)} (ids 0..{manifest.num_classes - 1})",
                extra={"parameter": "classes", "value": name, "accepted": known},
            )
    return [ids[name.casefold()] for name in names]


@lru_cache(maxsize=64)
def _colour(value: str) -> Rgb:
    digits = re.fullmatch(r"#?([0-9a-f]{3}|[0-9a-f]{6})", value, re.IGNORECASE)
    named = ImageColor.colormap.get(value.lower())
    if digits is None and named is None:
        raise InvalidParameter(
            f"background is {value!r}, expected hexadecimal digits such as ff8000 or f80, or a CSS name such as white",
            extra={"parameter": "background", "value": value},
        )
    red, green, blue = ImageColor.getrgb(f"#{digits[1]}" if digits else value.lower())[:3]
    return red, green, blue
