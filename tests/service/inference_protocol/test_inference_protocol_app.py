"""The protocol's paths in the app with the fake engine; the class of a pixel is its brightness."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.inference.batcher import Batcher
from tests.support.api import Api, Serving
from tests.support.brightness_model import Infer
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Png, Solid

pytestmark = pytest.mark.anyio

POISON = 201
MODEL = "/v2/models/brightness"
INFER = MODEL + "/infer"


def flat(*levels: int) -> NDArray[np.uint8]:
    """Images (B, 32, 64, 3) of one brightness each."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 32, 64, 3))


def tensor_of(images: NDArray[np.uint8]) -> dict[str, Any]:
    size = {"binary_data_size": images.size}
    return {"name": "images", "shape": list(images.shape), "datatype": "UINT8", "parameters": size}


def files_tensor(*files: bytes) -> tuple[dict[str, Any], bytes]:
    data = b"".join(struct.pack("<I", len(file)) + file for file in files)
    size = {"binary_data_size": len(data)}
    return {"name": "image_bytes", "shape": [len(files)], "datatype": "BYTES", "parameters": size}, data


def whole(tensor: dict[str, Any], data: bytes, **members: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a binary request."""
    text = json.dumps({**members, "inputs": [tensor]}).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text))}


async def infer(
    api: Api, images: NDArray[np.uint8], headers: dict[str, str] | None = None, **members: Any
) -> httpx.Response:
    body, length = whole(tensor_of(images), images.tobytes(), **members)
    response: httpx.Response = await api.http.post(INFER, content=body, headers={**length, **(headers or {})})
    return response


def labels_of(response: httpx.Response) -> NDArray[np.uint8]:
    """The only output of an answer in JSON."""
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert (output["name"], output["datatype"]) == ("labels", "UINT8")
    return np.array(output["data"], np.uint8).reshape(output["shape"])


def error_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    return str(body["error"])


async def test_server_tells_name_version_and_extensions(api: Api) -> None:
    for path in ("/v2", "/v2/"):
        metadata = (await api.get(path)).json()
        assert (metadata["name"], metadata["extensions"]) == ("ecenet", ["binary_tensor_data", "model_repository"])
        assert metadata["version"]


@pytest.mark.parametrize("path", [MODEL, MODEL + "/versions/1.2.3"])
async def test_model_tells_its_tensors(api: Api, path: str) -> None:
    assert (await api.get(path)).json() == {
        "name": "brightness",
        "versions": ["1.2.3"],
        "platform": "fake",
        "inputs": [
            {"name": "images", "datatype": "UINT8", "shape": [-1, 32, 64, 3]},
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "labels", "datatype": "UINT8", "shape": [-1, 32, 64]},
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3, 8, 16]},
        ],
    }


async def test_health_follows_the_service(engine: FakeEngine, serving: Serving) -> None:
    engine.shut()
    async with serving(warm=False) as api:
        assert (await api.get("/v2/health/live")).json() == {"live": True}
        for path in ("/v2/health/ready", MODEL + "/ready", MODEL + "/versions/1.2.3/ready", MODEL):
            assert "being loaded" in error_of(await api.get(path), 503)
        response = await infer(api, flat(0))
        assert "being loaded" in error_of(response, 503)
        assert response.headers["retry-after"] == "1"
        engine.gate.set()
        await api.runtime.started.wait()
        assert (await api.get("/v2/health/ready")).json() == {"live": True, "ready": True}
        for path in (MODEL + "/ready", MODEL + "/versions/1.2.3/ready"):
            assert (await api.get(path)).json() == {"name": "brightness", "ready": True}
        api.runtime.begin_drain()
        for path in ("/v2/health/ready", MODEL + "/ready"):
            assert "stopping" in error_of(await api.get(path), 503)


async def test_other_models_versions_and_paths_are_unknown(api: Api) -> None:
    for path in ("", "/ready"):
        unknown = await api.get("/v2/models/street" + path)
        assert "model 'street' is unknown; served: 'brightness'" in error_of(unknown, 404)
        unknown = await api.get(MODEL + "/versions/9" + path)
        assert "version '9' of 'brightness' is not served; '1.2.3' is" in error_of(unknown, 404)
    assert "street" in error_of(await api.http.post("/v2/models/street/infer", content=b"x"), 404)
    assert "GET /v2/nothing" in error_of(await api.get("/v2/nothing"), 404)
    assert "GET " + INFER in error_of(await api.get(INFER), 405)


@pytest.mark.parametrize("path", [INFER, MODEL + "/versions/1.2.3/infer"])
async def test_images_in_json_are_answered_in_json(api: Api, path: str) -> None:
    images = flat(255, 128)
    tensor = {"name": "images", "shape": [2, 32, 64, 3], "datatype": "UINT8", "data": images.tolist()}
    response = await api.http.post(path, json={"id": "7", "inputs": [tensor]})
    assert labels_of(response).tolist() == [[[label] * 64] * 32 for label in (2, 1)]
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("brightness", "1.2.3", "7")


async def test_binary_outputs_follow_the_json(api: Api, brightness_logits: Infer) -> None:
    images = flat(10, 250)
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in ("logits", "labels")]
    response = await infer(api, images, outputs=outputs)
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["inference-header-content-length"])
    logits, labels = json.loads(response.content[:length])["outputs"]
    assert (logits["shape"], logits["parameters"]) == ([2, 3, 8, 16], {"binary_data_size": 3072})
    assert (labels["shape"], labels["parameters"]) == ([2, 32, 64], {"binary_data_size": 4096})
    expected = brightness_logits(images)
    assert response.content[length : length + 3072] == expected.tobytes()
    assert response.content[length + 3072 :] == bytes(2048) + b"\2" * 2048


async def test_files_are_decoded_and_stretched_as_segment_does(api: Api, png: Png, solid: Solid) -> None:
    files = [png(9, 33), solid(255)]
    tensor, data = files_tensor(*files)
    body, headers = whole(tensor, data)
    labels = labels_of(await api.http.post(INFER, content=body, headers=headers))
    text = {key: value for key, value in tensor.items() if key != "parameters"}
    encoded = [base64.b64encode(file).decode() for file in files]
    again = labels_of(await api.http.post(INFER, json={"inputs": [{**text, "data": encoded}]}))
    pixels = Image.open(io.BytesIO(files[0])).resize((64, 32), Image.Resampling.BILINEAR)
    expected = labels_of(await infer(api, np.asarray(pixels)[None]))
    assert labels.shape == (2, 32, 64)
    assert np.array_equal(labels[:1], expected)
    assert set(labels[1].ravel().tolist()) == {2}
    assert np.array_equal(labels, again)


async def test_images_batch_with_those_of_segment(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        tensors = asyncio.create_task(infer(api, flat(255, 0, 128)))
        await api.until_queued(3)
        segment = asyncio.create_task(api.post(solid(128)))
        await api.until_queued(4)
        engine.gate.set()
        assert [labels[0, 0] for labels in labels_of(await tensors)] == [2, 0, 1]
        assert [(await task).status_code for task in (first, segment)] == [200, 200]
        assert engine.batch_sizes == [1, 4]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_requests_are_read(api: Api, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body, headers = whole(tensor_of(flat(255)), flat(255).tobytes())
    headers["Content-Encoding"] = encoding
    response = await api.http.post(INFER, content=compress(body), headers=headers)
    assert set(labels_of(response).ravel().tolist()) == {2}
    assert "gzip" in error_of(await api.http.post(INFER, content=b"x", headers={"Content-Encoding": "br"}), 415)
    bomb = await api.http.post(INFER, content=compress(bytes(1 << 20)), headers=headers)
    assert "the decompressed body has 71681 bytes or more, at most 71680" in error_of(bomb, 413)


async def test_bodies_beyond_the_limit_are_refused_unread_and_while_they_arrive(
    api: Api, exchange: type[Exchange]
) -> None:
    announced = exchange(api.app, {"content-length": "71681"}, path=INFER)
    await announced.run()
    assert (announced.status, announced.received) == (413, 0)
    chunks = 0

    async def endless() -> Any:
        nonlocal chunks
        while True:
            chunks += 1
            yield bytes(10_000)

    assert "at most 71680 are accepted" in error_of(await api.http.post(INFER, content=endless()), 413)
    assert chunks == 8


async def test_one_image_of_pixels_fits_however_small_the_limit_of_files(serving: Serving) -> None:
    async with serving(max_image_bytes=1024) as api:
        assert labels_of(await infer(api, flat(255))).shape == (1, 32, 64)


async def test_limits_of_files_hold(api: Api, png: Png) -> None:
    for file, words, status in [
        (png() + bytes(4096), "bytes, at most 4096", 413),
        (png(400, 300), "120000 pixels (300x400)", 413),
        (b"P6 1 1 255\n123", "PNM", 415),
        (png()[:-30], "truncated or corrupt", 400),
        (b"", "not an image", 400),
    ]:
        body, headers = whole(*files_tensor(png(), file))
        assert words in error_of(await api.http.post(INFER, content=body, headers=headers), status)
    assert await api.metric("ecenet_in_flight") == 0


async def test_each_image_takes_a_place(engine: FakeEngine, serving: Serving) -> None:
    async with serving(max_requests_in_flight=3) as api:
        assert "holds 4 images, at most 3" in error_of(await infer(api, flat(0, 0, 0, 0)), 413)
        engine.shut()
        inside = asyncio.create_task(infer(api, flat(255, 255)))
        await engine.until_entered()
        assert await api.metric("ecenet_in_flight") == 2
        refused = await infer(api, flat(0, 0))
        assert "3 requests are in the service already" in error_of(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        assert await api.metric('ecenet_requests_rejected_total{reason="overloaded"}') == 1
        assert await api.metric("ecenet_in_flight") == 2
        engine.gate.set()
        assert labels_of(await inside).shape == (2, 32, 64)
        assert await api.metric("ecenet_in_flight") == 0


async def test_request_that_takes_too_long_is_answered_504(engine: FakeEngine, serving: Serving) -> None:
    async with serving(request_timeout_s=0.05) as api:
        engine.shut()
        assert "0.05 s" in error_of(await infer(api, flat(0, 1)), 504)
        assert await api.metric("ecenet_in_flight") == 0
        engine.gate.set()


async def test_client_may_give_it_less_time(engine: FakeEngine, serving: Serving) -> None:
    async with serving() as api:
        engine.shut()
        response = await infer(api, flat(0), parameters={"timeout": 20_000})
        assert "0.02 s (parameter 'timeout')" in error_of(response, 504)
        assert await api.metric("ecenet_requests_expired_total") == 1
        assert await api.metric("ecenet_in_flight") == 0
        engine.gate.set()


async def test_images_that_take_most_of_the_time_are_answered_where_nothing_is_ahead(
    serving_in_process: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in ("first_s", "full_s"):
        monkeypatch.setattr(Batcher, batch, 58.0)
    async with serving_in_process(request_timeout_s=60) as api:
        api.batcher.seconds_per_image = 20.0
        assert labels_of(await infer(api, flat(0, 255, 0))).shape == (3, 32, 64)


async def test_images_that_would_never_be_done_in_time_are_not_begun(
    serving_in_process: Serving, engine: FakeEngine
) -> None:
    async with serving_in_process(request_timeout_s=60) as api:
        api.batcher.seconds_per_image = 50.0
        engine.batch_sizes.clear()
        error = error_of(refused := await infer(api, flat(0, 0, 0)), 413)
        assert "3 images take about 150 s" in error
        assert "s of the request's time are left" in error
        assert "send fewer" in error
        assert "retry-after" not in refused.headers
        assert engine.batch_sizes == []
        assert await api.metric("ecenet_in_flight") == 0
        assert labels_of(await infer(api, flat(255))).shape == (1, 32, 64)


async def test_images_of_a_request_inside_are_answered_though_a_drain_begins(api: Api) -> None:
    body, headers = whole(tensor_of(flat(0, 255)), flat(0, 255).tobytes())
    drains = []

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:10]
        drains.append(asyncio.create_task(api.runtime.drain(60)))
        await asyncio.sleep(0)
        yield body[10:]

    response = await api.http.post(INFER, content=pieces(), headers=headers)
    assert labels_of(response)[:, 0, 0].tolist() == [0, 2]
    await drains[0]


async def test_time_limit_that_is_none_is_answered_400(api: Api) -> None:
    response = await infer(api, flat(0), {"X-Request-Timeout-Ms": "soon"})
    assert "'soon'" in error_of(response, 400)


async def test_image_on_which_the_model_fails_fails_its_request_alone(engine: FakeEngine, serving: Serving) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(infer(api, flat(0)))
        await engine.until_entered()
        others = [asyncio.create_task(infer(api, images)) for images in (flat(0, POISON, 255), flat(128))]
        await api.until_queued(4)
        engine.gate.set()
        assert "poisoned" in error_of(await others[0], 500)
        assert labels_of(await others[1])[0, 0, 0] == 1
        assert (await first).status_code == 200
        assert await api.metric("ecenet_in_flight") == 0


@pytest.mark.parametrize("output", ["labels", "logits"])
async def test_nan_in_the_logits_is_answered_500(engine: FakeEngine, api: Api, output: str) -> None:
    engine.logits = lambda images: np.full((len(images), 3, 8, 16), np.nan, np.float32)
    assert "NaN" in error_of(await infer(api, flat(0), outputs=[{"name": output}]), 500)


async def test_bug_is_answered_500_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("service.inference_protocol.inference.encode_row", fail)
    assert error_of(await infer(api, flat(0)), 500) == "unexpected error; the log has it under the request id"
    monkeypatch.undo()
    assert (await infer(api, flat(0))).status_code == 200


async def test_work_of_a_departed_client_never_reaches_the_engine(
    engine: FakeEngine, serving: Serving, exchange: type[Exchange]
) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(infer(api, flat(0)))
        await engine.until_entered()
        body, headers = whole(tensor_of(flat(1, 2)), flat(1, 2).tobytes())
        request = exchange(api.app, {name.lower(): value for name, value in headers.items()}, body, path=INFER)
        departing = asyncio.create_task(request.run())
        await api.until_queued(2)
        request.left.set()
        await departing
        assert request.status == 499
        await api.until_queued(0)
        assert await api.metric('ecenet_requests_total{format="tensors",status="499"}') == 1
        engine.gate.set()
        assert (await first).status_code == 200
        assert engine.batch_sizes == [1]


async def test_without_its_key_only_the_health_of_the_server_is_told(serving: Serving) -> None:
    async with serving(api_keys="ann:sixteen-letters-or-more") as api:
        assert "key" in error_of(await infer(api, flat(0)), 401)
        assert (await infer(api, flat(0), {"Authorization": "Bearer sixteen-letters-or-more"})).status_code == 200
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await api.get(path)).status_code == 200


async def test_answers_and_refusals_are_counted(serving: Serving) -> None:
    async with serving(max_requests_in_flight=1) as api:
        response = await infer(api, flat(0))
        assert "decode" in response.headers["server-timing"]
        assert await api.metric('ecenet_requests_total{format="tensors",status="200"}') == 1
        assert await api.metric('ecenet_stage_seconds_count{stage="infer"}') == 1
        await api.runtime.drain(0)
        assert (await infer(api, flat(0))).status_code == 503
        assert await api.metric('ecenet_requests_total{format="tensors",status="503"}') == 1
        assert await api.metric('ecenet_requests_rejected_total{reason="draining"}') == 1


async def test_whatever_becomes_of_a_good_request_on_its_way_it_is_answered_in_form(api: Api, png: Png) -> None:
    dice = random.Random(5)
    good = [whole(tensor_of(flat(9, 99)), flat(9, 99).tobytes()), whole(*files_tensor(png(), png(20, 30)))]
    seen = set()
    for _ in range(150):
        body, headers = dice.choice(good)
        length = int(headers["Inference-Header-Content-Length"])
        spoiled = spoil(dice, body, dice.choice([length, len(body)]))
        told = dice.choice([length, length, length, length - 1, -1, 0, len(body) + 1, 1 << 70, "nan", "1e2"])
        response = await api.http.post(INFER, content=spoiled, headers={"Inference-Header-Content-Length": str(told)})
        seen.add(response.status_code)
        if response.status_code != 200:
            assert error_of(response, response.status_code)
    assert {400} < seen <= {200, 400, 413, 415}
    assert await api.metric("ecenet_in_flight") == 0


def spoil(dice: random.Random, body: bytes, end: int) -> bytes:
    """Change, drop or add some bytes before ``end``."""
    spoiled = bytearray(body)
    for _ in range(dice.randint(0, 3)):
        start = dice.randrange(end)
        spoiled[start : start + dice.randint(0, 2)] = dice.choice([b"", b"9", b"-", b'"', b"\xff", b"[[", b"1e9", b","])
    return bytes(spoiled[: dice.choice([len(spoiled), len(spoiled), dice.randrange(len(spoiled))])])


async def test_documentation_describes_the_protocol(api: Api) -> None:
    document = (await api.get("/openapi.json")).json()
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "application/octet-stream"}
        error = operation["responses"]["400"]["content"]["application/json"]["schema"]
        assert error == {"$ref": "#/components/schemas/ErrorBody"}
    assert document["components"]["schemas"]["InferenceRequest"]["properties"]["inputs"]["items"] == {
        "$ref": "#/components/schemas/RequestInput"
    }
    assert "#/$defs" not in json.dumps(document)
