"""Schemas of the files of annotation tools, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, RootModel

Point = tuple[float, float]


class LabelMeShape(BaseModel):
    """One region; holes are joined to its outer corners by a line there and back."""

    label: str = Field(description="name of the class")
    points: list[Point] = Field(description="x and y of the corners, in pixels")
    shape_type: Literal["polygon"]
    group_id: None = None
    description: str
    flags: dict[str, bool]
    mask: None = None


class LabelMeFile(BaseModel):
    """Body of `format=labelme`."""

    version: str
    imagePath: str = Field(description="the parameter `name`")  # noqa: N815  LabelMe's names
    imageData: None = None  # noqa: N815
    imageHeight: int  # noqa: N815
    imageWidth: int  # noqa: N815
    flags: dict[str, bool]
    shapes: list[LabelMeShape] = Field(description="the largest first")


class CocoImage(BaseModel):
    """The image."""

    id: int
    file_name: str = Field(description="the parameter `name`")
    height: int
    width: int


class CocoCategory(BaseModel):
    """A class."""

    id: int
    name: str
    supercategory: str


class CocoAnnotation(BaseModel):
    """One region; holes are joined to its outer corners by a line there and back."""

    id: int
    image_id: int
    category_id: int
    segmentation: list[list[float]] = Field(description="x, y of the corners, in pixels")
    area: float
    bbox: tuple[float, float, float, float] = Field(description="x, y, width, height")
    iscrowd: int


class CocoDataset(BaseModel):
    """Body of `format=coco`."""

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation] = Field(description="the largest first")


class LabelStudioPolygon(BaseModel):
    """Corners in percent of the image's width and height."""

    points: list[Point]
    polygonlabels: list[str]
    closed: bool


class LabelStudioResult(BaseModel):
    """One region; holes are joined to its outer corners by a line there and back."""

    id: str
    type: Literal["polygonlabels"]
    from_name: str
    to_name: str
    original_width: int
    original_height: int
    image_rotation: int
    value: LabelStudioPolygon


class LabelStudioPrediction(BaseModel):
    """The regions of an image."""

    model_version: str
    result: list[LabelStudioResult] = Field(description="the largest first")


class LabelStudioData(BaseModel):
    """The image."""

    image: str = Field(description="the parameter `name`")


class LabelStudioTask(BaseModel):
    """An image with the regions that a person may correct."""

    data: LabelStudioData
    predictions: list[LabelStudioPrediction]


class LabelStudioTasks(RootModel[list[LabelStudioTask]]):
    """Body of `format=labelstudio`: one task."""
