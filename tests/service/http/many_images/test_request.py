"""Many images in one request: each with its own answer or problem, in bounded memory, whoever leaves."""

from __future__ import annotations

import asyncio
import email
import email.policy
import io
import json
import zipfile
from email.message import EmailMessage
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.api import Api, Serving
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio

POISON = 201


async def send(api: Api, images: list[tuple[str, bytes]], **parameters: str) -> httpx.Response:
    response: httpx.Response = await api.http.post(
        "/segment/batch", params=parameters, files=[("file", image) for image in images]
    )
    return response


def unpack(response: httpx.Response) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Entries of the index, and all other files by name."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert list(files)[-1] == "index.json"
    entries: list[dict[str, Any]] = json.loads(files.pop("index.json"))["images"]
    assert [entry["file"] for entry in entries] == list(files)
    return entries, files


async def test_every_image_has_the_answer_that_it_has_alone(api: Api, png: Png, solid: Solid) -> None:
    images = [("a.png", png()), ("b.jpg", solid(255)), ("a.png", solid(0)), ("c", solid(128)), ("d", png(7, 201))]
    entries, files = unpack(await send(api, images))
    assert [entry["name"] for entry in entries] == ["a.png", "b.jpg", "a.png", "c", "d"]
    assert list(files) == ["0000-a.png", "0001-b.png", "0002-a.png", "0003-c.png", "0004-d.png"]
    for entry, (_, data) in zip(entries, images, strict=True):
        alone = await api.post(data)
        assert (entry["status"], entry["etag"]) == (200, alone.headers["etag"])
        assert files[entry["file"]] == alone.content


@pytest.mark.parametrize("by", ["header", "parameter"])
async def test_multipart_message_has_the_answers_of_single_images(api: Api, png: Png, solid: Solid, by: str) -> None:
    images = [("a.png", png()), ("b.png", b"hello"), ("\u00e4.png", solid(255))]
    headers = {"Accept": "multipart/mixed" if by == "header" else "*/*"}
    parameters = {"envelope": "multipart"} if by == "parameter" else {}
    files = [("file", image) for image in images]
    response = await api.http.post("/segment/batch", params=parameters, headers=headers, files=files)
    assert (response.status_code, response.headers["vary"]) == (200, "Accept")
    assert response.headers["x-model-version"] == "1.2.3"
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content, EmailMessage, policy=email.policy.HTTP)
    parts = list(message.iter_parts())
    assert [part["Content-Disposition"].params["name"] for part in parts] == [name for name, _ in images]
    for part, (_, data) in zip(parts, images, strict=True):
        alone = await api.post(data)
        assert (part["Status"], part["ETag"]) == (str(alone.status_code), alone.headers.get("etag"))
        assert part["Content-Type"] == alone.headers["content-type"]
        if alone.status_code == 200:
            assert part.get_payload(decode=True) == alone.content


async def test_header_that_takes_no_envelope_is_406(api: Api, solid: Solid) -> None:
    response = await api.http.post("/segment/batch", files=[("file", ("a", solid(0)))], headers={"Accept": "image/png"})
    api.check_problem(response, 406, "not-acceptable", "application/zip, multipart/mixed", "?envelope=")


@pytest.mark.parametrize(
    ("answer_format", "extension"),
    [("color", "png"), ("json", "json"), ("contours", "geojson"), ("npy", "npy"), ("confidence", "png")],
)
async def test_parameters_hold_for_every_image(api: Api, png: Png, answer_format: str, extension: str) -> None:
    entries, files = unpack(await send(api, [("a.png", png()), ("b.png", png())], format=answer_format, classes="grey"))
    assert list(files) == [f"0000-a.{extension}", f"0001-b.{extension}"]
    if answer_format == "npy":
        assert set(np.load(io.BytesIO(files["0001-b.npy"])).ravel().tolist()) == {1, 255}
    assert [entry["status"] for entry in entries] == [200, 200]


async def test_bad_images_harm_no_other(api: Api, solid: Solid) -> None:
    images = [("a", solid(0)), ("b", b"hello"), ("c", solid(POISON)), ("d", bytes(5000)), ("e", solid(255))]
    entries, files = unpack(await send(api, images))
    assert [entry["status"] for entry in entries] == [200, 400, 500, 413, 200]
    for index, slug in ((1, "not-an-image"), (2, "engine-failure"), (3, "payload-too-large")):
        problem = json.loads(files[entries[index]["file"]])
        assert entries[index]["file"].endswith(".problem.json")
        assert (problem["type"], problem["status"]) == (slug, entries[index]["status"])
        assert problem["instance"] == f"/segment/batch#{index}"
        assert problem["request_id"]
    for index, label in ((0, 0), (4, 2)):
        image = Image.open(io.BytesIO(files[entries[index]["file"]]))
        assert set(np.asarray(image).ravel().tolist()) == {label}


async def test_bugs_are_told_of_their_image_alone(
    api: Api, png: Png, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.inference.pipeline.open_image", fail)
    entries, files = unpack(await send(api, [("a", png())]))
    assert entries[0]["status"] == 500
    assert b"secret" not in files[entries[0]["file"]]
    assert "secret" in caplog.text


async def test_names_of_clients_are_made_harmless(api: Api, solid: Solid) -> None:
    names = ["../../etc/passwd", "C:\\photos\\a b.png", "\u00e4.png", "x" * 300, "."]
    entries, files = unpack(await send(api, [(name, solid(0)) for name in names]))
    assert [entry["name"] for entry in entries] == [names[0], "a b.png", *names[2:]]
    expected = ["0000-passwd", "0001-a_b", "0002-_", f"0003-{'x' * 64}", "0004-image"]
    assert list(files) == [f"{stem}.png" for stem in expected]


async def test_wrong_requests_are_problems_as_a_whole(api: Api, solid: Solid) -> None:
    api.check_problem(await send(api, [("a", solid(0))], classes="Moon"), 422, "invalid-parameter", "'Moon'")
    text = await api.http.post("/segment/batch", content=b"x", headers={"Content-Type": "image/png"})
    api.check_problem(text, 415, "unsupported-media-type", "image/png", "multipart/form-data")
    other = await api.http.post("/segment/batch", files=[("image", ("a", solid(0)))])
    api.check_problem(other, 422, "invalid-parameter", "'file' is missing")


async def test_images_and_bytes_are_limited(serving: Serving, solid: Solid) -> None:
    async with serving(max_images_per_request=2, max_many_images_bytes=4096) as api:
        images = [("a", solid(0))] * 3
        api.check_problem(await send(api, images), 400, "bad-request", "more than 2 fields 'file'", "at most 2 images")
        problem = api.check_problem(await send(api, [("a", bytes(5000))]), 413, "payload-too-large", "4096")
        assert problem["limit"] == 4096
        entries, _ = unpack(await send(api, images[:2]))
        assert len(entries) == 2
        assert api.app.state.many_images_memory.requests == 0
        assert api.app.state.many_images_memory.held == 0


async def test_more_images_than_places_in_the_service_are_answered(serving: Serving, solid: Solid) -> None:
    async with serving(max_requests_in_flight=1) as api:
        entries, _ = unpack(await send(api, [(str(level), solid(level)) for level in range(20)]))
        assert [entry["status"] for entry in entries] == [200] * 20


async def test_time_that_is_over_is_told_of_every_image(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(request_timeout_s=1) as api:
        engine.shut()
        entries, files = unpack(await send(api, [("a", solid(0)), ("b", solid(1))]))
        assert [entry["status"] for entry in entries] == [504, 504]
        assert json.loads(files[entries[0]["file"]])["type"] == "deadline-exceeded"
        engine.gate.set()


async def test_images_are_counted_as_single_ones_are(api: Api, solid: Solid) -> None:
    await send(api, [("a", solid(0)), ("b", b"hello"), ("c", solid(POISON)), ("d", solid(255))], format="color")
    for status, count in ((200, 2), (400, 1), (500, 1)):
        assert await api.metric(f'ecenet_requests_total{{format="color",status="{status}"}}') == count
    assert await api.metric("ecenet_request_seconds_count") == 2
    assert await api.metric('ecenet_stage_seconds_count{stage="infer"}') == 2


async def test_refused_request_is_counted_once(api: Api, solid: Solid) -> None:
    await send(api, [("a", solid(0))], classes="Moon")
    assert await api.metric('ecenet_requests_total{format="none",status="422"}') == 1


async def test_work_of_a_departed_client_is_dropped(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving() as api:
        engine.shut()
        task = asyncio.create_task(send(api, [("a", solid(0))] * 20))
        await engine.until_entered()
        task.cancel()
        await asyncio.wait((task,))
        while api.app.state.many_images_memory.requests:  # noqa: ASYNC110  the places are what is tested
            await asyncio.sleep(0)
        assert await api.metric("ecenet_in_flight") == 0
        assert await api.metric('ecenet_requests_total{format="labels",status="499"}') == 20
        assert api.app.state.many_images_memory.held == 0
        engine.gate.set()
