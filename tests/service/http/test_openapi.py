"""The API's document: every parameter, an example of every format, and examples that are what the service answers."""

from __future__ import annotations

import base64
import email
import email.message
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from service.answers.annotation_schemas import CocoDataset, LabelMeFile, LabelStudioTasks
from service.answers.negotiation import OFFERS
from service.answers.schemas import AnswerFormat, ClassContours, Labels, Models, SegmentationSummary
from service.http.json_image import parse_json_image
from service.http.many_images.envelope import Envelope
from tests.support.api import Api

pytestmark = pytest.mark.anyio

LABELS = [[0, 0, 0, 1], [0, 0, 1, 1]]


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = (await api.get("/openapi.json")).json()
    return document


@pytest.fixture
def answers(document: dict[str, Any]) -> dict[str, Any]:
    """Contents of ``POST /segment``'s answer 200, by media type."""
    content: dict[str, Any] = document["paths"]["/segment"]["post"]["responses"]["200"]["content"]
    return content


async def test_every_format_has_an_example_under_its_media_type(answers: dict[str, Any]) -> None:
    assert set(answers) == {media_type for media_type, _ in OFFERS}
    for answer_format in AnswerFormat:
        assert str(answer_format) in answers[answer_format.media_type]["examples"]
    for media_type, answer_format in OFFERS:
        assert str(answer_format) in answers[media_type]["examples"]


async def test_binary_examples_are_real_files(answers: dict[str, Any]) -> None:
    def bytes_of(media_type: str, name: str) -> io.BytesIO:
        return io.BytesIO(base64.b64decode(answers[media_type]["examples"][name]["value"], validate=True))

    images = {name: Image.open(bytes_of("image/png", name)) for name in answers["image/png"]["examples"]}
    assert {name: (image.mode, image.size) for name, image in images.items()} == {
        "labels": ("P", (4, 2)),
        "color": ("RGB", (4, 2)),
        "overlay": ("RGB", (4, 2)),
        "confidence": ("L", (4, 2)),
        "cutout": ("RGBA", (4, 2)),
    }
    assert np.asarray(images["labels"]).tolist() == LABELS
    for media_type in ("application/x-npy", "application/octet-stream"):
        assert np.load(bytes_of(media_type, "npy")).tolist() == LABELS


async def test_json_examples_fit_their_schemas(answers: dict[str, Any]) -> None:
    examples = {name: it["value"] for name, it in answers["application/json"]["examples"].items()}
    for name in ("json", "json with rle=true"):
        assert SegmentationSummary.model_validate(examples[name]).size.width == 4
    assert [it.label for it in LabelMeFile.model_validate(examples["labelme"]).shapes] == ["Sky", "Building"]
    assert [it.area for it in CocoDataset.model_validate(examples["coco"]).annotations] == [5, 3]
    (task,) = LabelStudioTasks.model_validate(examples["labelstudio"]).root
    assert [it.value.polygonlabels for it in task.predictions[0].result] == [["Sky"], ["Building"]]
    assert "rle" in answers["application/json"]["examples"]["json with rle=true"]["value"]["classes"][0]
    contours = ClassContours.model_validate(answers["application/geo+json"]["examples"]["contours"]["value"])
    assert [feature.properties.pixels for feature in contours.features] == [5, 3]


@pytest.mark.parametrize(("path", "model"), [("/labels", Labels), ("/models", Models)])
async def test_lists_have_examples_that_fit(path: str, model: type[Any], document: dict[str, Any]) -> None:
    content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
    assert content["schema"]["$ref"].endswith(f"/{model.__name__}")
    TypeAdapter(model).validate_python(content["example"])


async def test_example_of_a_json_body_is_an_image(document: dict[str, Any]) -> None:
    example = document["components"]["schemas"]["ImageBody"]["properties"]["image"]["examples"][0]
    data = parse_json_image(b'{"image": "' + example.encode() + b'"}')
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (1, 1)


async def test_examples_of_many_images_are_what_parsers_read(document: dict[str, Any]) -> None:
    operation = document["paths"]["/segment/batch"]["post"]
    content = operation["responses"]["200"]["content"]
    assert list(content) == [envelope.media_type for envelope in Envelope]
    index, message = (content[media_type]["examples"]["two images"]["value"] for media_type in content)
    assert [entry["status"] for entry in json.loads(index)["images"]] == [200, 400]
    boundary = message.partition("\r\n")[0].removeprefix("--")
    parts = email.message_from_string(
        f'Content-Type: multipart/mixed; boundary="{boundary}"\n\n{message}'
    ).get_payload()
    assert isinstance(parts, list)
    messages = [part for part in parts if isinstance(part, email.message.Message)]
    assert [part["Status"] for part in messages] == ["200", "400"]
    answer, problem = (json.loads(str(part.get_payload())) for part in messages)
    SegmentationSummary.model_validate(answer)
    assert problem["type"] == "not-an-image"
    assert "envelope" in {parameter["name"] for parameter in operation["parameters"]}


async def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    parameters = {entry["name"]: entry for entry in document["paths"]["/segment"]["post"]["parameters"]}
    assert {"format", "palette", "alpha", "classes", "size", "background", "rle"} <= set(parameters)
    assert {"simplify", "name", "If-None-Match"} <= set(parameters)
    assert all(entry["description"] for entry in parameters.values())
    headers = document["paths"]["/segment"]["post"]["responses"]["200"]["headers"]
    assert {"ETag", "X-Model-Version", "X-Request-ID", "Server-Timing"} <= set(headers)


async def test_no_reference_leads_nowhere(document: dict[str, Any]) -> None:
    references = {text.partition("'")[0] for text in str(document).split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])


async def test_parameters_are_never_null(document: dict[str, Any]) -> None:
    calls = [call for path in document["paths"].values() for call in path.values()]
    parameters = [parameter for call in calls for parameter in call.get("parameters", [])]
    assert len(parameters) > 20
    assert not [entry["name"] for entry in parameters if {"type": "null"} in entry["schema"].get("anyOf", [])]
    timeout = next(entry for entry in parameters if entry["name"] == "X-Request-Timeout-Ms")
    assert (timeout["schema"]["type"], timeout["schema"]["exclusiveMinimum"]) == ("integer", 0)


async def test_unload_promises_no_content(document: dict[str, Any]) -> None:
    unload = document["paths"]["/v2/repository/models/{name}/unload"]["post"]
    assert "content" not in unload["responses"]["200"]
