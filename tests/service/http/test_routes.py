"""Bodies, formats, and the errors of single requests; the class of a pixel is its brightness."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service.logs import RequestIdFilter
from tests.support.api import Api, Serving
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio

POISON = 201


async def test_labels_are_class_ids_with_the_palette(api: Api, png: Png) -> None:
    response = await api.post(png(32, 96))
    labels = api.pixels(response)
    assert labels.shape == (32, 96)
    assert [labels[:, column].tolist() for column in (8, 48, 88)] == [[0] * 32, [1] * 32, [2] * 32]
    palette = Image.open(io.BytesIO(response.content)).getpalette()
    assert palette is not None
    assert palette[:9] == [10, 20, 30, 40, 50, 60, 70, 80, 90]


async def test_color_is_the_colour_of_the_class(api: Api, png: Png) -> None:
    colors = api.pixels(await api.post(png(32, 96), format="color"))
    assert colors.shape == (32, 96, 3)
    assert [colors[16, column].tolist() for column in (8, 48, 88)] == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]


async def test_overlay_is_half_image_and_half_colour(api: Api, png: Png) -> None:
    blend = api.pixels(await api.post(png(32, 96), format="overlay"))
    assert [blend[16, column].tolist() for column in (8, 48, 88)] == [[5, 10, 15], [84, 89, 94], [163, 168, 173]]


async def test_json_counts_every_class(api: Api, solid: Solid) -> None:
    response = await api.post(solid(128), format="json")
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body.pop("timings_ms")) == {"read", "wait", "decode", "queue", "infer", "post"}
    assert body == {
        "size": {"width": 64, "height": 32},
        "model": {"name": "brightness", "version": "1.2.3"},
        "processing": {"mode": "resize", "windows": 1, "scale_x": 1.0, "scale_y": 1.0},
        "classes": [
            {"id": 0, "name": "dark", "color": [10, 20, 30], "pixels": 0, "share": 0.0, "confidence": None},
            {"id": 1, "name": "grey", "color": [40, 50, 60], "pixels": 2048, "share": 1.0, "confidence": 1.0},
            {"id": 2, "name": "bright", "color": [70, 80, 90], "pixels": 0, "share": 0.0, "confidence": None},
        ],
    }


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg", "application/octet-stream", "Image/PNG; q=1"])
async def test_form_and_body_give_the_same_answer(api: Api, png: Png, media_type: str) -> None:
    body = await api.http.post("/segment", content=png(), headers={"Content-Type": media_type})
    form = await api.http.post("/segment", files={"file": ("photo.png", png())}, data={"note": "x"})
    assert body.status_code == form.status_code == 200
    assert body.content == form.content


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=utf-8"])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_json_and_body_give_the_same_answer(api: Api, png: Png, media_type: str, prefix: str) -> None:
    body = await api.http.post("/segment", content=png(), headers={"Content-Type": "image/png"})
    response = await post_json(api, {"image": prefix + base64.b64encode(png()).decode()}, media_type)
    assert response.status_code == 200
    assert response.content == body.content


async def test_json_of_another_form_is_answered_422(api: Api) -> None:
    problem = api.check_problem(await post_json(api, {"image": "", "img": 1}), 422, "invalid-parameter", "'img' is")
    assert problem["parameter"] == "img"


async def test_too_many_bytes_of_an_image_in_json_are_answered_413(api: Api) -> None:
    response = await post_json(api, {"image": base64.b64encode(bytes(4097)).decode()})
    problem = api.check_problem(response, 413, "payload-too-large", "the image has 4097 bytes")
    assert (problem["value"], problem["limit"], problem["unit"]) == (4097, 4096, "bytes")


async def test_too_many_bytes_of_json_are_answered_413_with_the_limit_of_an_image(api: Api) -> None:
    response = await post_json(api, {"image": "A" * 80_000})
    assert api.check_problem(response, 413, "payload-too-large", "the body has 80013 bytes")["limit"] == 4096


async def test_large_json_beside_the_image_is_answered_413(api: Api) -> None:
    response = await post_json(api, {"image": "", "x": "A" * 66_000})
    assert api.check_problem(response, 413, "payload-too-large", "beside the text of 'image'")["limit"] == 65536


@pytest.mark.parametrize("parameters", [";" * 60_000, ";a=b" * 15_000, ';a="' * 15_000])
async def test_long_content_type_of_a_form_is_answered_400_unread(api: Api, parameters: str) -> None:
    content_type = f"multipart/form-data{parameters}; boundary=b"
    response = await api.http.post("/segment", content=b"", headers={"Content-Type": content_type})
    problem = api.check_problem(response, 400, "bad-request", f"the content type has {len(content_type)} characters")
    assert problem["limit"] == 1024


async def test_answer_has_the_size_of_an_odd_image(api: Api, png: Png) -> None:
    assert api.pixels(await api.post(png(7, 201))).shape == (7, 201)


async def test_bytes_that_are_no_image_are_answered_400(api: Api) -> None:
    api.check_problem(await api.post(b"hello"), 400, "not-an-image", "hello")


async def test_truncated_image_is_answered_400(api: Api, solid: Solid) -> None:
    api.check_problem(await api.post(solid(9)[:-30]), 400, "not-an-image", "truncated or corrupt")


@pytest.mark.parametrize("cut", [4, 60, 150])
async def test_form_that_is_cut_off_is_answered_400(api: Api, cut: int, solid: Solid) -> None:
    whole = api.http.build_request("POST", "/segment", files={"file": ("photo.png", solid(9))})
    headers = {"Content-Type": whole.headers["content-type"]}
    response = await api.http.post("/segment", content=whole.read()[:-cut], headers=headers)
    api.check_problem(response, 400, "bad-request", "multipart form")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("multipart/form-data", b"x"), ("multipart/form-data; boundary=b", b"no boundary here")],
)
async def test_form_that_is_none_is_answered_400(api: Api, content_type: str, body: bytes) -> None:
    response = await api.http.post("/segment", content=body, headers={"Content-Type": content_type})
    api.check_problem(response, 400, "bad-request")


async def test_second_file_is_answered_400(api: Api, solid: Solid) -> None:
    files = [("file", ("a.png", solid(1))), ("file", ("b.png", solid(2)))]
    api.check_problem(await api.http.post("/segment", files=files), 400, "bad-request", "more than one field 'file'")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "text/json", ""])
async def test_other_content_types_are_answered_415(api: Api, content_type: str, solid: Solid) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await api.http.post("/segment", content=solid(1), headers=headers)
    api.check_problem(
        response, 415, "unsupported-media-type", content_type or "missing", "multipart/form-data", "image/*"
    )


async def test_image_in_another_format_is_answered_415(api: Api) -> None:
    api.check_problem(await api.post(b"P6 1 1 255\n123"), 415, "unsupported-image", "PNM")


async def test_form_without_the_field_is_answered_422(api: Api, solid: Solid) -> None:
    response = await api.http.post("/segment", files={"image": ("photo.png", solid(1))})
    api.check_problem(response, 422, "invalid-parameter", "'file' is missing", "['image']")


async def test_field_that_is_text_is_answered_422(api: Api) -> None:
    response = await api.http.post("/segment", files={"other": ("a", b"")}, data={"file": "photo.png"})
    api.check_problem(response, 422, "invalid-parameter", "'file' is text")


async def test_unknown_format_is_answered_422_with_the_known_ones(api: Api, solid: Solid) -> None:
    problem = api.check_problem(await api.post(solid(1), format="gif"), 422, "invalid-parameter", "'gif'")
    assert all(known in problem["detail"] for known in ("'labels'", "'color'", "'overlay'", "'json'"))
    assert (problem["parameter"], problem["value"]) == ("format", "gif")
    assert {"labels", "color", "overlay", "json"} <= set(problem["accepted"])
    assert await api.metric('ecenet_requests_total{format="none",status="422"}') == 1


@pytest.mark.parametrize("path", ["/segment", "/segment/batch"])
async def test_misspelt_parameter_is_answered_422(api: Api, path: str) -> None:
    response = await api.http.post(path, params={"formt": "json"}, files={"file": ("a.png", b"")})
    assert api.check_problem(response, 422, "invalid-parameter", "'formt'")["parameter"] == "formt"


async def test_value_out_of_range_is_told_with_the_limit(api: Api, solid: Solid) -> None:
    problem = api.check_problem(await api.post(solid(1), alpha="1.5"), 422, "invalid-parameter", "alpha is '1.5'")
    assert (problem["parameter"], problem["value"], problem["limit"]) == ("alpha", "1.5", 1.0)


@pytest.mark.parametrize(("form", "size"), [(False, 4097), (True, 4096 + 64 * 1024 + 1), (False, 2**64 - 1)])
async def test_too_many_bytes_by_the_header_are_answered_413_unread(
    serving: Serving, form: bool, size: int, exchange: type[Exchange]
) -> None:
    async with serving(max_image_bytes=4096) as api:
        content_type = "multipart/form-data; boundary=b" if form else "image/png"
        request = exchange(api.app, {"content-type": content_type, "content-length": str(size)})
        await request.run()
        assert request.status == 413
        assert request.received == 0


async def test_too_many_bytes_are_answered_413_while_they_arrive(api: Api) -> None:
    chunks = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        while True:
            chunks += 1
            yield bytes(1024)

    response = await api.http.post("/segment", content=endless(), headers={"Content-Type": "image/png"})
    problem = api.check_problem(response, 413, "payload-too-large", "4096")
    assert problem["limit"] == 4096
    assert chunks == 5


async def test_too_large_file_in_a_small_enough_form_is_answered_413(api: Api) -> None:
    response = await api.http.post("/segment", files={"file": ("big.png", bytes(4097))})
    api.check_problem(response, 413, "payload-too-large", "4097", "4096")


async def test_too_many_pixels_are_answered_413(api: Api, png: Png) -> None:
    problem = api.check_problem(await api.post(png(400, 300)), 413, "payload-too-large", "120000", "300x400")
    assert (problem["limit"], problem["unit"]) == (100_000, "pixels")


async def test_image_on_which_the_model_fails_is_answered_500(api: Api, solid: Solid) -> None:
    api.check_problem(await api.post(solid(POISON)), 500, "engine-failure", "poisoned")
    assert (await api.post(solid(1))).status_code == 200


async def test_nan_in_the_logits_is_answered_500(engine: FakeEngine, api: Api, solid: Solid) -> None:
    engine.logits = lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float32)
    api.check_problem(await api.post(solid(1)), 500, "engine-failure", "NaN")


async def test_bug_is_answered_500_without_its_text(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, solid: Solid
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.inference.pipeline.open_image", fail)
    caplog.handler.addFilter(RequestIdFilter())
    problem = api.check_problem(await api.post(solid(1)), 500, "internal-error")
    assert "secret" not in str(problem)
    assert "secret" in caplog.text
    assert problem["request_id"] in {
        getattr(record, "request_id", None) for record in caplog.records if record.exc_info
    }
    monkeypatch.undo()
    assert (await api.post(solid(1))).status_code == 200


async def post_json(api: Api, body: object, media_type: str = "application/json") -> httpx.Response:
    return await api.http.post("/segment", content=json.dumps(body), headers={"Content-Type": media_type})


async def test_unknown_path_and_method_are_problems(api: Api) -> None:
    api.check_problem(await api.get("/nothing"), 404, "not-found", "GET /nothing")
    response = await api.get("/segment")
    api.check_problem(response, 405, "method-not-allowed", "GET /segment")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("target", ["/{}", "/v2/models/{}", "/segment?{}=1", "/segment?alpha={}"])
async def test_a_problem_repeats_little_of_a_long_target(api: Api, target: str) -> None:
    answer = await api.http.post(target.format("x" * 60_000), content=b"", headers={"Content-Type": "image/png"})
    assert answer.is_client_error
    assert len(answer.content) < 4500


async def test_bad_images_and_poison_in_a_batch_harm_nobody_else(
    engine: FakeEngine, serving: Serving, solid: Solid
) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        bodies = [solid(0), solid(128), solid(POISON), solid(255), b"no image", solid(9)[:-30]]
        tasks = [asyncio.create_task(api.post(body)) for body in bodies]
        await asyncio.wait(tasks[4:])
        await api.until_queued(4)
        engine.gate.set()
        responses = [await task for task in tasks]
        assert [response.status_code for response in responses] == [200, 200, 500, 200, 400, 400]
        assert [set(api.pixels(responses[index]).ravel().tolist()) for index in (0, 1, 3)] == [{0}, {1}, {2}]
        assert (await first).status_code == 200
        assert engine.batch_sizes == [1, 4, 1, 1, 1, 1]
