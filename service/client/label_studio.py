"""ML backend of Label Studio (https://labelstud.io/guide/ml): a service's answers as predictions.

Images are asked of that Label Studio alone. Predictions have the labels of the project's ``<PolygonLabels>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from service.client.client import AsyncClient
from service.client.errors import ClientError
from service.client.options import Parameters


class Question(BaseModel):
    """The tasks to predict, and the labelling configuration of their project."""

    tasks: list[dict[str, Any]]
    label_config: str = Field(max_length=1 << 20)


@dataclass(frozen=True, slots=True)
class Control:
    """The part of a labelling configuration that draws polygons: where, on which data of a task, with which labels."""

    names: dict[str, str]
    key: str
    labels: frozenset[str]


def find_control(label_config: str) -> Control:
    """Find the first ``<PolygonLabels>`` with its ``<Image>``."""
    try:
        root = ET.fromstring(label_config)  # noqa: S314  expat bounds what entities expand to
        polygons = next(root.iter("PolygonLabels"))
        image = next(it for it in root.iter("Image") if it.attrib["name"] == polygons.attrib["toName"])
        labels = frozenset(label.get(key, "") for label in polygons.iter("Label") for key in ("value", "alias"))
        key = image.attrib["value"].removeprefix("$")
        return Control({"from_name": polygons.attrib["name"], "to_name": image.attrib["name"]}, key, labels)
    except (ET.ParseError, StopIteration, KeyError):
        raise HTTPException(400, "the labelling configuration has no <PolygonLabels> on an <Image>") from None


class Images:
    """Images of tasks, by a client whose base URL is Label Studio's; ``key`` is a personal or a legacy token."""

    def __init__(self, http: httpx.AsyncClient, key: str) -> None:
        self._http = http
        self._key = key

    async def read(self, address: str) -> bytes:
        """Give the file behind the address in a task's data."""
        url = self._http.base_url.join(address)
        if (url.scheme, url.netloc) != (self._http.base_url.scheme, self._http.base_url.netloc):
            raise HTTPException(400, f"the image {address} is not on {self._http.base_url}")
        response = await self._http.get(url, headers={"Authorization": await self._authorization()})
        return response.raise_for_status().content

    async def _authorization(self) -> str:
        if self._key.count(".") != 2:
            return f"Token {self._key}"
        # A personal token is a JWT that gives access for some minutes.
        response = await self._http.post("/api/token/refresh", json={"refresh": self._key})
        return f"Bearer {response.raise_for_status().json()['access']}"


def create_backend(client: AsyncClient, images: Images, parameters: Parameters) -> FastAPI:
    """Make the application that Label Studio asks."""
    app = FastAPI(openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "ECENet"}

    @app.post("/setup")
    async def setup() -> dict[str, str]:
        return {"model_version": "ecenet"}

    @app.post("/predict")
    async def predict(question: Question) -> dict[str, Any]:
        control = find_control(question.label_config)
        try:
            return {"results": [await _predict(task, control) for task in question.tasks]}
        except (ClientError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise HTTPException(502, str(error)) from error

    async def _predict(task: dict[str, Any], control: Control) -> dict[str, Any]:
        data = await images.read(str(task.get("data", {}).get(control.key)))
        answer = await client.segment(data, "labelstudio", **parameters)
        prediction: dict[str, Any] = answer.document()[0]["predictions"][0]
        known = [it for it in prediction["result"] if it["value"]["polygonlabels"][0] in control.labels]
        return {**prediction, "result": [it | control.names for it in known]}

    return app
