"""Bodies of requests and answers, as the OpenAPI document shows them."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class AnswerFormat(StrEnum):
    """What a segmentation is answered with."""

    LABELS = "labels"
    COLOR = "color"
    OVERLAY = "overlay"
    JSON = "json"

    @property
    def media_type(self) -> str:
        return "application/json" if self is AnswerFormat.JSON else "image/png"


class ImageSize(BaseModel):
    """Size of the upright image."""

    width: int = Field(description="pixels")
    height: int = Field(description="pixels")


class ModelInfo(BaseModel):
    """The model that answers."""

    name: str
    version: str


class ClassSummary(BaseModel):
    """One class and how much of the image it covers."""

    id: int = Field(description="value of its pixels in `format=labels`")
    name: str
    color: tuple[int, int, int] = Field(description="RGB, 0..255")
    pixels: int = Field(description="pixels of this class; 0 if it is absent")
    share: float = Field(description="pixels / (width * height), 0..1")


class SegmentationSummary(BaseModel):
    """Body of `format=json`: every class of the model in the order of the ids; the pixels add up to the image."""

    size: ImageSize
    model: ModelInfo
    classes: list[ClassSummary]


class Problem(BaseModel):
    """Body of every error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable name of the kind of problem", examples=["not-an-image"])
    title: str = Field(description="the kind of problem in words", examples=["Not a readable image"])
    status: int = Field(description="HTTP status", examples=[400])
    detail: str = Field(description="this occurrence, with value and limit")
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
