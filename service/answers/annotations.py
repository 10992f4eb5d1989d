"""Documents that annotation tools import: LabelMe, COCO, and predictions of Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.answers.json_text import json_array, json_numbers, json_object
from service.answers.options import AnswerOptions
from service.answers.outlines import Outline, outlines
from service.answers.schemas import AnswerFormat
from service.model_directory.manifest import Manifest

# The form of LabelMe's files has been the same since this version.
_LABELME_VERSION = "5.5.0"
# Names in the labelling configuration of Label Studio's template for semantic segmentation with polygons.
_FROM_NAME, _TO_NAME = "label", "image"
# Decimals of a percentage, less than a hundredth of a pixel in any image.
_DECIMALS = 5

Size = tuple[int, int]
Writer = Callable[[Sequence[Outline], Size, Manifest, str], str]


def encode_annotations(labels: NDArray[np.uint8], manifest: Manifest, options: AnswerOptions) -> bytes:
    """Write the regions of a label map in the form of the tool that ``options.format`` names.

    Args:
        labels: (H, W) uint8; pixels whose id is not a class are left out.
        manifest: The classes.
        options: Format, tolerance, and name of the image.

    Raises:
        InvalidParameter: See ``outlines``.
    """
    found = outlines(labels, manifest, options.simplify, options.format)
    height, width = labels.shape
    return _WRITERS[options.format](found, (height, width), manifest, options.name).encode()


def _labelme(found: Sequence[Outline], size: Size, manifest: Manifest, name: str) -> str:  # noqa: ARG001
    """A file of LabelMe (https://github.com/wkentaro/labelme); the image is named, not embedded."""
    rest: dict[str, object] = {"group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None}
    shapes = [json_object({"label": it.info.name, **rest}, points=json_numbers(it.ring)) for it in found]
    height, width = size
    head: dict[str, object] = {"version": _LABELME_VERSION, "flags": {}, "imagePath": name, "imageData": None}
    return json_object({**head, "imageHeight": height, "imageWidth": width}, shapes=json_array(shapes))


def _coco(found: Sequence[Outline], size: Size, manifest: Manifest, name: str) -> str:
    """A data set of one image in COCO's form (https://cocodataset.org/#format-data)."""
    height, width = size
    images = [{"id": 1, "file_name": name, "height": height, "width": width}]
    categories = [{"id": info.id, "name": info.name, "supercategory": ""} for info in manifest.classes]
    annotations = json_array(_coco_annotation(number, it) for number, it in enumerate(found, 1))
    return json_object({"images": images, "categories": categories}, annotations=annotations)


def _coco_annotation(number: int, outline: Outline) -> str:
    left, top = outline.ring.min(0).tolist()
    width, height = np.ptp(outline.ring, axis=0).tolist()
    head = {"id": number, "image_id": 1, "category_id": outline.info.id, "area": outline.area, "iscrowd": 0}
    box = {"bbox": [left, top, width, height]}
    return json_object({**head, **box}, segmentation=json_array([json_numbers(outline.ring.ravel())]))


def _labelstudio(found: Sequence[Outline], size: Size, manifest: Manifest, name: str) -> str:
    """A list of one task with a prediction (https://labelstud.io/guide/predictions)."""
    results = json_array(_labelstudio_result(number, it, size) for number, it in enumerate(found, 1))
    prediction = json_object({"model_version": f"{manifest.name} {manifest.version}"}, result=results)
    return json_array([json_object({"data": {"image": name}}, predictions=json_array([prediction]))])


def _labelstudio_result(number: int, outline: Outline, size: Size) -> str:
    height, width = size
    percent = np.round(outline.ring * (100 / np.array([width, height])), _DECIMALS)
    value = json_object({"closed": True, "polygonlabels": [outline.info.name]}, points=json_numbers(percent))
    head = {"id": f"region-{number}", "type": "polygonlabels", "from_name": _FROM_NAME, "to_name": _TO_NAME}
    sides = {"original_width": width, "original_height": height, "image_rotation": 0}
    return json_object({**head, **sides}, value=value)


_WRITERS: dict[AnswerFormat, Writer] = {
    AnswerFormat.LABELME: _labelme,
    AnswerFormat.COCO: _coco,
    AnswerFormat.LABELSTUDIO: _labelstudio,
}
