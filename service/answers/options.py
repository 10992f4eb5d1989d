"""What a request asks its answer to be: its parameters, checked against the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ImageColor

from service.answers.negotiation import OFFERS, negotiate
from service.answers.schemas import AnswerFormat, AnswerSize, InputMode, LabelPalette, SegmentQuery
from service.errors import InvalidParameter
from service.imaging.segmentation import VOID
from service.imaging.tiling import window_of
from service.model_directory.manifest import GraphInfo, Manifest

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """All that decides how a segmentation is answered; its ``repr`` identifies it.

    Attributes:
        format: Form of the answer.
        media_type: Its content type.
        palette: Whether label PNGs have colours.
        alpha: Weight of the colours in overlays, 0..1.
        classes: Ids of the classes to keep, ascending; None for all.
        size: Whether the answer has the size of the image or of the model's input.
        mode: How the image goes to the model.
        background: RGB behind transparent pixels, 0..255.
        rle: Whether JSON has the masks.
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

    @property
    def needs_confidence(self) -> bool:
        """Whether the answer tells how sure the model is, as far as it knows."""
        return self.format in {AnswerFormat.CONFIDENCE, AnswerFormat.JSON}


def resolve_options(query: SegmentQuery, accept: str | None, manifest: Manifest, graph: GraphInfo) -> AnswerOptions:
    """Check the parameters of a request.

    Args:
        query: The parameters as they came.
        accept: The ``Accept`` header, which decides on the format where no parameter does.
        manifest: The model, for its classes.
        graph: The graph that serves, for what it can tell.

    Raises:
        InvalidParameter: A class that the model has not, a colour that is none, or a format or mode that the graph
            cannot give.
        NotAcceptable: See ``negotiate``.
    """
    if query.answer_format is None:
        media_type, answer_format = negotiate(accept, OFFERS, "format")
    else:
        media_type, answer_format = query.answer_format.media_type, query.answer_format
    if answer_format not in available_formats(graph):
        raise InvalidParameter(
            f"format is '{answer_format}', but the model's graph {graph.file} gives labels without scores; "
            "serve a graph exported with --output logits",
            extra={"parameter": "format", "value": str(answer_format)},
        )
    return AnswerOptions(
        format=answer_format,
        media_type=media_type,
        palette=query.palette,
        alpha=query.alpha,
        classes=_classes(query.classes, manifest),
        size=query.size,
        mode=_mode(query, graph),
        background=_colour(query.background),
        rle=query.rle,
    )


def _mode(query: SegmentQuery, graph: GraphInfo) -> InputMode:
    if query.mode is InputMode.TILE:
        window_of(graph)  # raises where there are none
        if query.size is AnswerSize.MODEL:
            raise InvalidParameter(
                "size is 'model', which windows have not that are blended at the image's size: leave out size or mode",
                extra={"parameter": "size", "value": "model"},
            )
    return query.mode


def available_formats(graph: GraphInfo) -> list[AnswerFormat]:
    """The formats that a graph has what is needed for."""
    return [known for known in AnswerFormat if graph.output == "logits" or known is not AnswerFormat.CONFIDENCE]


def available_modes(graph: GraphInfo) -> list[InputMode]:
    """The modes that a graph can be used in."""
    try:
        window_of(graph)
    except InvalidParameter:
        return [InputMode.RESIZE]
    return list(InputMode)


def _classes(values: Sequence[str] | None, manifest: Manifest) -> tuple[int, ...] | None:
    if not values:
        return None
    if manifest.num_classes > VOID:
        raise InvalidParameter(
            f"classes is {', '.join(values)!r}, but all 256 ids are classes and none is left for other pixels; "
            "leave classes out",
            extra={"parameter": "classes", "value": ",".join(values)},
        )
    ids = {info.name.casefold(): info.id for info in manifest.classes}
    ids.update((str(info.id), info.id) for info in manifest.classes)
    return tuple(sorted({class_id for value in values for class_id in _ids_of(value, ids, manifest)}))


def _ids_of(value: str, ids: dict[str, int], manifest: Manifest) -> list[int]:
    """Ids of one value of ``classes``: a class whose name may hold commas, or several."""
    whole = ids.get(value.strip().casefold())
    if whole is not None:
        return [whole]
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name.casefold() not in ids:
            raise InvalidParameter(
                f"classes has {name!r}, which the model has not; it has the ids 0..{manifest.num_classes - 1} and the "
                f"names {', '.join(info.name for info in manifest.classes)}",
                extra={"parameter": "classes", "value": name, "accepted": [info.name for info in manifest.classes]},
            )
    return [ids[name.casefold()] for name in names]


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
