"""The clients against the real application: every format, every kind of error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import AsyncClient, Refused, RetryPolicy, UnexpectedAnswer
from tests.support.api import Serving
from tests.support.pictures import Png


@pytest.fixture
async def asked(serving: Serving) -> AsyncIterator[AsyncClient]:
    """A client of an app with the brightness model, which takes images of at most 10 000 pixels."""
    async with serving(max_image_pixels=10_000) as api:
        http = httpx.AsyncClient(transport=httpx.ASGITransport(api.app, raise_app_exceptions=False))
        async with AsyncClient("http://test", http=http, retry=RetryPolicy(max_tries=1)) as client:
            yield client


@pytest.mark.anyio
async def test_label_maps_as_png_and_as_numpy_file(asked: AsyncClient, png: Png) -> None:
    answer = await asked.segment(png())
    labels = answer.labels()
    assert labels.shape == (32, 96)
    assert labels[0, [5, 48, 90]].tolist() == [0, 1, 2]
    assert answer.model_version
    assert answer.request_id
    assert {"decode", "infer", "total"} <= set(answer.server_timing)
    for parameters in ({"answer_format": "npy"}, {"palette": "none"}):
        np.testing.assert_array_equal((await asked.segment(png(), **parameters)).labels(), labels)  # type: ignore[arg-type]
    assert (await asked.segment(png(), size="model")).labels().shape == (32, 64)
    kept = (await asked.segment(png(), classes=["bright", 0])).labels()
    assert np.unique(kept).tolist() == [0, 2, 255]


@pytest.mark.anyio
async def test_pixels_are_what_the_service_sees(asked: AsyncClient) -> None:
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[:, 25:] = 255
    labels = (await asked.segment(pixels)).labels()
    assert labels[0, [5, 45]].tolist() == [0, 2]


@pytest.mark.anyio
async def test_pictures(asked: AsyncClient, png: Png) -> None:
    color = (await asked.segment(png(), "color")).pixels()
    assert color[0, [5, 48, 90]].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    overlay = (await asked.segment(png(), "overlay", alpha=0.0)).pixels()
    assert overlay[0, [5, 48, 90]].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    confidence = (await asked.segment(png(), "confidence")).pixels()
    assert confidence.shape == (32, 96)
    assert confidence[0, 5] == 255
    cutout = (await asked.segment(png(), "cutout", classes=["bright"])).pixels()
    assert cutout[0, [5, 90]].tolist() == [[0] * 4, [255] * 4]


@pytest.mark.anyio
async def test_documents(asked: AsyncClient, png: Png) -> None:
    summary = (await asked.segment(png(), "json", rle=True, classes=[1])).summary()
    assert (summary.size.width, summary.size.height) == (96, 32)
    assert summary.model.name == "brightness"
    (grey,) = summary.classes
    assert (grey.id, grey.name, grey.color) == (1, "grey", (40, 50, 60))
    assert grey.share == pytest.approx(1 / 3, abs=0.1)
    assert grey.rle is not None
    assert grey.rle.size == (32, 96)
    contours = (await asked.segment(png(), "contours")).contours()
    assert [feature.properties.name for feature in contours.features] == ["dark", "grey", "bright"]
    assert contours.features[0].geometry.coordinates[0][0][0] == (0, 0)
    coco = (await asked.segment(png(), "coco", name="a.png", simplify=1.0)).document()
    assert coco["images"] == [{"id": 1, "file_name": "a.png", "height": 32, "width": 96}]
    with pytest.raises(UnexpectedAnswer, match="answered no JSON"):
        (await asked.segment(png(), "npy")).document()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("image", "parameters", "status", "slug", "value"),
    [
        (b"nothing", {}, 400, "not-an-image", None),
        (np.zeros((101, 100, 3), np.uint8), {}, 413, "payload-too-large", 10100),
        (np.zeros((4, 4), np.uint8), {"classes": ["sky"]}, 422, "invalid-parameter", "sky"),
        (np.zeros((4, 4), np.uint8), {"alpha": 1.5}, 422, "invalid-parameter", "1.5"),
    ],
)
async def test_errors_have_the_fields_of_their_problem(
    image: Any, parameters: Any, status: int, slug: str, value: Any, *, asked: AsyncClient
) -> None:
    with pytest.raises(Refused) as caught:
        await asked.segment(image, **parameters)
    error = caught.value
    assert (error.status, error.type) == (status, slug)
    assert error.request_id
    assert error.detail
    assert error.members.get("value") == value


@pytest.mark.anyio
async def test_the_time_that_a_request_is_given_is_told(serving: Serving, png: Png, engine: Any) -> None:
    async with serving() as api:
        engine.gate.clear()
        http = httpx.AsyncClient(transport=httpx.ASGITransport(api.app, raise_app_exceptions=False))
        retry = RetryPolicy(max_tries=1)
        async with AsyncClient("http://test", http=http, request_timeout_ms=50, retry=retry) as client:
            with pytest.raises(Refused) as caught:
                await client.segment(png())
        engine.gate.set()
    assert (caught.value.status, caught.value.type) == (504, "deadline-exceeded")
