"""Answers as files of annotation tools, and what the import of the trainer makes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.api import Api
from trainer.data import main as data_command
from trainer.datasets import open_dataset

pytestmark = pytest.mark.anyio

Labels = NDArray[np.uint8]
NAMES = ["dark", "grey", "bright"]
Post = Callable[..., Any]


@pytest.fixture
def photo() -> bytes:
    """Blobs of the three classes, with holes and islands."""
    noise = np.random.default_rng(5).integers(0, 256, (6, 11), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((176, 96), Image.Resampling.BICUBIC))
    levels = np.array([0, 128, 255], np.uint8)[np.digitize(smooth, (100, 160))]
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def accepted(tool: str, answer: Any) -> Any:
    """The document once a person has accepted it: Label Studio turns a prediction into an annotation."""
    if tool != "labelstudio":
        return answer
    return [{"id": 1, "data": it["data"], "annotations": it["predictions"]} for it in answer]


def imported(folder: Path, tool: str, photo: bytes, answer: Any) -> Labels:
    """The label map of the dataset that the import makes, with the service's class ids, and 3 for no class."""
    export = folder / "export"
    export.mkdir()
    (export / "street.png").write_bytes(photo)
    (export / "street.json").write_text(json.dumps(accepted(tool, answer)))
    output = folder / "data"
    assert data_command(["import", str(export), "--from", tool, "-o", str(output), "--split", "0"]) == 0
    dataset = open_dataset("folder", output, "train")
    names = [info.name for info in dataset.classes]
    ids = np.array([NAMES.index(name) if name in NAMES else 3 for name in names] + [3] * (256 - len(names)))
    return ids[dataset[0].labels].astype(np.uint8)


@pytest.mark.parametrize("tool", ["labelme", "coco", "labelstudio"])
@pytest.mark.parametrize("classes", ["dark,grey,bright", "grey,bright"])
async def test_exact_answers_come_back_pixel_for_pixel(
    api: Api, photo: bytes, tmp_path: Path, tool: str, classes: str
) -> None:
    labels = api.pixels(await api.post(photo, classes=classes))
    answer = (await api.post(photo, format=tool, classes=classes, name="street.png")).json()
    found = imported(tmp_path, tool, photo, answer)
    np.testing.assert_array_equal(found, np.where(labels == 255, 3, labels))


@pytest.mark.parametrize("tool", ["labelme", "coco", "labelstudio"])
async def test_simplified_answers_come_back_within_a_pixel(api: Api, photo: bytes, tmp_path: Path, tool: str) -> None:
    labels = api.pixels(await api.post(photo))
    exact, answer = [(await api.post(photo, format=tool, simplify=it, name="street.png")) for it in ("0", "1")]
    assert len(answer.content) < len(exact.content) * 0.75
    found = imported(tmp_path, tool, photo, answer.json())
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    near = np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])
    assert (found == near).any(0).all()


async def name_of(answer: httpx.Response, tool: str) -> str:
    document = answer.json()
    names = {
        "labelme": lambda: document["imagePath"],
        "coco": lambda: document["images"][0]["file_name"],
        "labelstudio": lambda: document[0]["data"]["image"],
    }
    name: str = names[tool]()
    return name


@pytest.mark.parametrize("tool", ["labelme", "coco", "labelstudio"])
async def test_the_image_is_named_as_the_request_says(api: Api, photo: bytes, tool: str) -> None:
    assert await name_of(await api.post(photo, format=tool), tool) == "image"
    form = {"file": ("a.png", photo, "image/png")}
    assert await name_of(await api.http.post(f"/segment?format={tool}", files=form), tool) == "a.png"
    assert await name_of(await api.http.post(f"/segment?format={tool}&name=b", files=form), tool) == "b"
    for name in ("/data/local-files/?d=a/street 1.jpg", 'quote".png', "straße.jpg"):
        assert await name_of(await api.post(photo, format=tool, name=name), tool) == name


async def test_each_of_many_images_keeps_the_name_that_it_was_sent_with(api: Api, photo: bytes) -> None:
    files = [("file", (name, photo, "image/png")) for name in ("a.png", "x" * 300 + ".png")]
    headers = {"Accept": "multipart/mixed"}
    answer = await api.http.post("/segment/batch?format=labelme", files=files, headers=headers)
    paths = [json.loads(line)["imagePath"] for line in answer.text.splitlines() if line.startswith("{")]
    assert paths == ["a.png", "x" * 251 + ".png"]


async def test_boxes_and_areas_of_coco_are_those_of_the_regions(api: Api, photo: bytes) -> None:
    labels = api.pixels(await api.post(photo))
    document = (await api.post(photo, format="coco")).json()
    assert sum(it["area"] for it in document["annotations"]) == labels.size
    largest = document["annotations"][0]
    corners = np.array(largest["segmentation"][0]).reshape(-1, 2)
    assert largest["bbox"] == [*corners.min(0).tolist(), *np.ptp(corners, axis=0).tolist()]
    assert [it["name"] for it in document["categories"]] == NAMES
