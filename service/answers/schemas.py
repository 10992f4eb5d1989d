"""Schemas of requests and answers, as the OpenAPI document shows them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class AnswerFormat(StrEnum):
    """Format of an answer."""

    LABELS = "labels"
    COLOR = "color"
    OVERLAY = "overlay"
    CONFIDENCE = "confidence"
    CUTOUT = "cutout"
    CONTOURS = "contours"
    LABELME = "labelme"
    COCO = "coco"
    LABELSTUDIO = "labelstudio"
    NPY = "npy"
    JSON = "json"

    @property
    def media_type(self) -> str:
        return _MEDIA_TYPES.get(self, "image/png")


# Characters of an image's name in a file of an annotation tool.
MAX_NAME = 255
ANNOTATIONS = frozenset({AnswerFormat.LABELME, AnswerFormat.COCO, AnswerFormat.LABELSTUDIO})
_MEDIA_TYPES = {
    AnswerFormat.CONTOURS: "application/geo+json",
    AnswerFormat.LABELME: "application/json",
    AnswerFormat.COCO: "application/json",
    AnswerFormat.LABELSTUDIO: "application/json",
    AnswerFormat.NPY: "application/x-npy",
    AnswerFormat.JSON: "application/json",
}


class LabelPalette(StrEnum):
    """Colours of a PNG of labels."""

    CLASSES = "classes"
    NONE = "none"


class AnswerSize(StrEnum):
    """Size of an answer."""

    INPUT = "input"
    MODEL = "model"


class InputMode(StrEnum):
    """Way of an image through the model."""

    RESIZE = "resize"
    TILE = "tile"


class SegmentQuery(BaseModel):
    """Parameters of ``POST /segment``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer_format: AnswerFormat | None = Field(
        None,
        alias="format",
        description="`labels`: PNG whose pixel values are class ids, with the classes' colours as palette. "
        "`color`: RGB PNG of the classes' colours. `overlay`: these blended with the image. "
        "`confidence`: grey PNG, 0..255, of the largest softmax probability, taken at each cell of the model's output "
        "and resized bilinearly. `cutout`: RGBA PNG of the image, transparent where none of `classes` is. "
        "`contours`: polygons of every class as GeoJSON, in pixels from the upper left. `labelme`, `coco`, "
        "`labelstudio`: the same as a file that the annotation tool imports, a polygon for every region. "
        "`npy`: class ids as a NumPy file, uint8 (H, W). `json`: pixels, share and mean confidence of every class. "
        "If not given, the `Accept` header decides, and without one it is `labels`.",
    )
    model: str | None = Field(None, description="Name of the model, one of `/models`; the default one if not given.")
    palette: LabelPalette = Field(
        LabelPalette.CLASSES, description="Of `labels`: with `none` the PNG is grey, its values the class ids."
    )
    alpha: float = Field(0.5, ge=0, le=1, description="Of `overlay`: weight of the colours, 0..1.")
    classes: list[str] | None = Field(
        None,
        description="Keep only these classes: names or ids, separated by commas. All other pixels have the id 255, "
        "which is black, keep the image's colours in overlays, have confidence 0, and are left out elsewhere.",
    )
    size: AnswerSize = Field(
        AnswerSize.INPUT, description="`input`: the answer has the size of the image. `model`: of the model's input."
    )
    mode: InputMode = Field(
        InputMode.RESIZE,
        description="`resize`: the image is stretched to the model's input. `tile`: it goes through the model at its "
        "own size in windows that overlap by a quarter, with blended scores; for images larger than the input.",
    )
    background: str = Field(
        "white",
        max_length=32,
        description="Behind transparent pixels: hexadecimal digits such as `ff8000` or `f80`, or a CSS name.",
    )
    rle: bool = Field(False, description="Of `json`: add each class's mask as COCO's compressed run lengths.")
    simplify: float = Field(
        0,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Of polygons: largest distance in pixels from a corner that is dropped to the new border; 0 drops "
        "none. Neighbouring classes keep their borders in common.",
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME,
        description="Of `labelme`, `coco` and `labelstudio`: the path or address of the image for the tool; the name "
        "of the file in the form if not given, and else `image`.",
    )


class ImageBody(BaseModel):
    """An image as JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    image: str = Field(
        description="base64 of the image file, or a data URI of it",
        examples=[
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNoaGgAAAMEAYFL09IQAAAAAElFTkSuQmCC"
        ],
    )


class ImageSize(BaseModel):
    """Width and height in pixels."""

    width: int = Field(description="pixels")
    height: int = Field(description="pixels")


class ModelInfo(BaseModel):
    """The model that answers."""

    name: str
    version: str


class ClassLabel(BaseModel):
    """One class of the model."""

    id: int = Field(description="value of its pixels in `format=labels`")
    name: str
    color: tuple[int, int, int] = Field(description="RGB, 0..255")


class RunLengths(BaseModel):
    """A mask the way `pycocotools.mask` reads it."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str = Field(description="compressed lengths of the runs down the columns, zeros first")


class ClassSummary(ClassLabel):
    """One class and how much of the image it covers."""

    pixels: int = Field(description="pixels of this class; 0 if it is absent")
    share: float = Field(description="pixels / (width * height), 0..1")
    confidence: float | None = Field(
        description="mean of `format=confidence` over its pixels, 0..1; null if it is absent or the graph has no scores"
    )
    rle: RunLengths | None = Field(None, description="its mask; only with `rle=true`")


class Processing(BaseModel):
    """Way of an image through the model."""

    mode: InputMode = Field(description="`resize` also where `tile` was asked for and one window holds the image")
    windows: int = Field(description="times that the model was run")
    scale_x: float = Field(description="columns of the model's input per column of the image")
    scale_y: float = Field(description="rows of the model's input per row of the image")


class SegmentationSummary(BaseModel):
    """Body of `format=json`: the classes in the order of their ids; all of them together cover the image."""

    size: ImageSize = Field(description="size of the label map")
    model: ModelInfo
    classes: list[ClassSummary]
    processing: Processing | None = Field(None, description="way of the image through the model")
    timings_ms: dict[str, float] = Field(
        description="milliseconds of the stages before the answer was written; the header Server-Timing has all"
    )


class MultiPolygon(BaseModel):
    """Regions of one class; a polygon is its outer ring, then its holes, each closed by its first point."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[tuple[int, int]]]] = Field(
        description="x to the right and y down, in pixels; (0, 0) is the upper left corner of the image"
    )


class ClassArea(ClassLabel):
    """One class and its area."""

    pixels: int = Field(description="pixels of this class; the area of its polygons, unless they are simplified")


class ClassFeature(BaseModel):
    """The regions of one class that is in the image."""

    type: Literal["Feature"]
    properties: ClassArea
    geometry: MultiPolygon


class ClassContours(BaseModel):
    """Body of `format=contours`: GeoJSON but for its coordinates, which are pixels."""

    type: Literal["FeatureCollection"]
    size: ImageSize
    model: ModelInfo
    features: list[ClassFeature]


class Labels(BaseModel):
    """Body of `/labels`: the classes in the order of their ids."""

    model: ModelInfo
    classes: list[ClassLabel]


class ServedModel(ModelInfo):
    """A model and the engine that runs it."""

    input_size: ImageSize = Field(description="size to which images are stretched for the model")
    precision: str = Field(description="arithmetic of the graph", examples=["fp32"])
    engine: str = Field(description="runtime", examples=["onnxruntime"])
    num_classes: int
    formats: list[AnswerFormat] = Field(description="values of `format` that it supports")
    modes: list[InputMode] = Field(description="values of `mode` that it supports")
    default: bool = Field(description="true for the model of requests that name none")


class Models(BaseModel):
    """Body of `/models`."""

    models: list[ServedModel]


class Problem(BaseModel):
    """Body of every error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable name of the kind of problem", examples=["not-an-image"])
    title: str = Field(description="the kind of problem in words", examples=["Not a readable image"])
    status: int = Field(description="HTTP status", examples=[400])
    detail: str = Field(description="this occurrence of the problem, with value and limit")
    instance: str = Field(description="path of the request", examples=["/segment"])
    request_id: str = Field(description="as in the X-Request-ID header")


class Health(BaseModel):
    """Body of the health checks."""

    status: str = Field(examples=["ok"])
    state: str = Field(description="starting, ready, draining, stopped or failed", examples=["ready"])


class Welcome(BaseModel):
    """Body of `/`."""

    service: str
    version: str
    model: ModelInfo
    docs: str
    try_: str = Field(alias="try")
