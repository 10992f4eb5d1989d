"""Examples of the API's document, made by the encoders that answer: an image of 4x2 pixels, sky beside a building."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from pydantic import BaseModel

from service.answers.annotation_schemas import CocoDataset, LabelMeFile, LabelStudioTasks
from service.answers.encode import encode_answer
from service.answers.negotiation import OFFERS
from service.answers.options import AnswerOptions
from service.answers.schemas import ANNOTATIONS, AnswerFormat, ClassContours, InputMode, Processing, SegmentationSummary
from service.errors import PROBLEM_MEDIA_TYPE, NotAnImage
from service.http.many_images.envelope import INDEX_NAME, Part, end, head, index, index_entry
from service.imaging.segmentation import Segmentation
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest

_CLASSES = (ClassInfo(0, "Sky", (128, 128, 128)), ClassInfo(1, "Building", (128, 0, 0)))
_GRAPH = GraphInfo("model.onnx", "0" * 64, (576, 768))
_MANIFEST = Manifest("ecenet-lite0-camvid", "1.1.0", "ecenet-lite0", _CLASSES, (_GRAPH,))
_SEGMENTATION = Segmentation(
    np.array([[0, 0, 0, 1], [0, 0, 1, 1]], np.uint8),
    np.array([[255, 250, 200, 190], [255, 240, 150, 230]], np.uint8),
)
_PROCESSING = Processing(mode=InputMode.RESIZE, windows=1, scale_x=192, scale_y=288)
_SECONDS = {
    "read": 0.0004,
    "wait": 0.0001,
    "decode": 0.0061,
    "queue": 0.0021,
    "infer": 0.0953,
    "post": 0.0052,
}
_BINARY = {"type": "string", "format": "binary"}
_MODEL = {"name": _MANIFEST.name, "version": _MANIFEST.version}

LABELS_EXAMPLE: dict[str, Any] = {
    "model": _MODEL,
    "classes": [{"id": info.id, "name": info.name, "color": list(info.color)} for info in _CLASSES],
}
MODELS_EXAMPLE: dict[str, Any] = {
    "models": [
        {
            **_MODEL,
            "input_size": {"width": 768, "height": 576},
            "precision": "fp32",
            "engine": "onnxruntime",
            "num_classes": len(_CLASSES),
            "formats": list(AnswerFormat),
            "modes": list(InputMode),
            "default": True,
        }
    ]
}


def answer_content() -> dict[str, Any]:
    """``content`` of an answer of ``POST /segment``: every media type with an example of each of its formats."""
    content = {media_type: {"schema": _schema(media_type), "examples": dict[str, Any]()} for media_type, _ in OFFERS}
    for answer_format in AnswerFormat:
        content[answer_format.media_type]["examples"][str(answer_format)] = _example(answer_format)
    content["application/json"]["examples"]["json with rle=true"] = _example(AnswerFormat.JSON, rle=True)
    content["application/octet-stream"]["examples"]["npy"] = _example(AnswerFormat.NPY)
    return content


def many_images_content() -> dict[str, Any]:
    """``content`` of an answer of ``POST /segment/batch``: an image and a file that is none, in both envelopes."""
    parts, boundary = _example_parts(), "ecenet-4f6c1c0e"
    message = b"".join(head(boundary, part) + part.content + b"\r\n" for part in parts) + end(boundary)
    listing = index([index_entry(part) for part in parts])
    zip_note = f"a file for each image, and {INDEX_NAME}, which is shown"
    return {
        "application/zip": {
            "schema": _BINARY,
            "examples": {"two images": {"summary": zip_note, "value": listing.decode()}},
        },
        "multipart/mixed": {
            "schema": _BINARY,
            "examples": {"two images": {"summary": "with format=json", "value": message.decode()}},
        },
    }


def _example_parts() -> list[Part]:
    answer = json.dumps(_example(AnswerFormat.JSON)["value"]).encode()
    error = NotAnImage("the PNG image is truncated or corrupt: image file is truncated")
    problem = {**error.problem(), "instance": "/segment/batch#1", "request_id": "4f6c1c0e"}
    tag = {"ETag": 'W/"4e1f2b6c0d9a8b7f6e5d4c3b2a190807"'}
    return [
        Part(0, "street.jpg", 200, "0000-street.json", "application/json", answer, tag),
        Part(1, "half.png", error.status, "0001-half.problem.json", PROBLEM_MEDIA_TYPE, json.dumps(problem).encode()),
    ]


def _schema(media_type: str) -> dict[str, Any]:
    models: dict[str, tuple[type[BaseModel], ...]] = {
        "application/json": (SegmentationSummary, LabelMeFile, CocoDataset, LabelStudioTasks),
        "application/geo+json": (ClassContours,),
    }
    references = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models.get(media_type, ())]
    if len(references) > 1:
        return {"anyOf": references}
    return references[0] if references else _BINARY


def _example(answer_format: AnswerFormat, *, rle: bool = False) -> dict[str, Any]:
    classes = (1,) if answer_format is AnswerFormat.CUTOUT else None
    name = "street.jpg" if answer_format in ANNOTATIONS else ""
    options = AnswerOptions(answer_format, answer_format.media_type, classes=classes, rle=rle, name=name)
    segmentation = _SEGMENTATION if classes is None else _SEGMENTATION.restrict(classes)
    pixels = np.full((*segmentation.labels.shape, 3), 200, np.uint8)
    answer = encode_answer(
        options, segmentation, _MANIFEST, processing=_PROCESSING, pixels=lambda: pixels, seconds=_SECONDS
    )
    if answer_format.media_type.endswith("json"):
        return {"value": json.loads(answer)}
    return {"summary": "4x2 pixels; the bytes are shown as base64", "value": base64.b64encode(answer).decode()}
