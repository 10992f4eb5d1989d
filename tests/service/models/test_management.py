"""The calls of the protocol's model repository: their forms, their errors, and who may make them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest

from service.logs import make_handler
from tests.support.api import Api
from tests.support.limits import HANG_S
from tests.support.shelf import Shelf, Shelving

pytestmark = pytest.mark.anyio

KEY = "0123456789abcdef"
CALLS = ("index", "models/street/load", "models/street/unload")


async def call(api: Api, path: str, body: object = None, key: str | None = KEY) -> Any:
    headers = {} if key is None else {"X-API-Key": key}
    return await api.http.post(f"/v2/repository/{path}", json=body, headers=headers)


def error(response: Any, status: int) -> str:
    assert (response.status_code, set(response.json())) == (status, {"error"}), response.text
    text: str = response.json()["error"]
    return text


async def test_versions_are_loaded_listed_and_unloaded(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1.0.0", "1.1.0")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        newest = {"name": "street", "version": "1.1.0", "state": "READY", "reason": ""}
        oldest = {"name": "street", "version": "1.0.0", "state": "READY", "reason": ""}
        not_loaded = {"state": "UNAVAILABLE", "reason": "not loaded: version 1.1.0 serves"}
        assert (await call(api, "index")).json() == [newest, oldest | not_loaded]
        switched = await call(api, "models/street/load", {"parameters": {"version": "1.0.0"}})
        assert (switched.status_code, switched.json()) == (200, oldest)
        assert (await call(api, "index", {"ready": True})).json() == [oldest]
        assert (await call(api, "models/street/load")).json() == newest
        assert (await call(api, "models/street/load", {"parameters": {"version": None}})).json() == newest
        assert (await call(api, "models/street/unload", {"parameters": {"unload_dependents": False}})).content == b""
        assert (await call(api, "index", {"ready": True})).json() == []
        assert error(await api.http.get("/v2/models/street/ready", headers={"X-API-Key": KEY}), 503)


async def test_failures_are_told_in_the_protocols_form(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        shelf.spoil("street", "2")
        assert error(await call(api, "models/street/load"), 500) == "street 2 is spoilt"
        (broken, serving) = (await call(api, "index")).json()
        assert broken == {"name": "street", "version": "2", "state": "UNAVAILABLE", "reason": "street 2 is spoilt"}
        assert serving["state"] == "READY"
        assert "'day' is not there; served: 'street'" in error(await call(api, "models/day/load"), 404)
        assert "'day' is unknown" in error(await call(api, "models/day/unload"), 404)
        version = {"parameters": {"version": "7"}}
        assert "version '7' of 'street' does not exist; these do: 2, 1" in error(
            await call(api, "models/street/load", version), 404
        )


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("models/street/load", {"parameters": {"version": 1}}, "parameters.version is 1"),
        (
            "models/street/load",
            {"parameters": {"config": "{}"}},
            "parameter 'config' of a load belongs to an extension",
        ),
        ("models/street/load", {"parameters": {"file:1/model.onnx": "aGk="}}, "'file:1/model.onnx'"),
        ("models/street/load", [], "the body is not valid JSON for the load request"),
        ("models/street/unload", "x", "the body is not valid JSON for the unload request"),
        ("index", {"ready": "yes"}, "ready is 'yes'"),
    ],
)
async def test_wrong_bodies_are_refused_and_change_nothing(
    shelf: Shelf, shelving: Shelving, path: str, body: object, words: str
) -> None:
    shelf.put("street", "1")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        assert words in error(await call(api, path, body), 400)
        assert len(shelf.made) == 1
        assert [model.version for model in api.runtime.models.models] == ["1"]


async def test_a_body_too_large_is_not_read(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        assert "at most 65536" in error(await call(api, "models/street/load", {"parameters": {"x": "y" * 65536}}), 413)


@pytest.mark.parametrize("path", CALLS)
async def test_calls_need_a_key(shelf: Shelf, shelving: Shelving, path: str) -> None:
    shelf.put("street", "1")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        for key in (None, "fedcba9876543210"):
            assert "key" in error(await call(api, path, key=key), 401)
        assert [model.version for model in api.runtime.models.models] == ["1"]
        assert (await call(api, path)).status_code == 200


@pytest.mark.parametrize("path", CALLS)
async def test_nobody_may_call_where_no_key_is_set(shelf: Shelf, shelving: Shelving, path: str) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        for key in (None, KEY):
            assert "needs an API key and none is set" in error(await call(api, path, key=key), 403)
        assert (len(shelf.made), len(api.runtime.models.models)) == (1, 1)


async def test_a_load_during_the_drain_is_told_to_whom_it_may_concern(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1", "2")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        shelf.shut()
        load = asyncio.create_task(call(api, "models/street/load"))
        assert await asyncio.to_thread(shelf.loading.wait, HANG_S)
        api.runtime.begin_drain()
        assert "cancelled this change" in error(await load, 503)
        assert "does not change its models any more" in error(await call(api, "models/street/load"), 503)
        assert [model.version for model in api.runtime.models.models] == ["2"]
        shelf.gate.set()


async def test_later_lines_do_not_belong_to_the_request_that_loaded(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    lines = io.StringIO()
    handler = make_handler("json", lines)
    logging.getLogger("service").addHandler(handler)
    try:
        async with shelving(api_keys=f"ops:{KEY}") as api:
            api.http.headers.update({"X-API-Key": KEY, "X-Request-ID": "the-load"})
            assert (await call(api, "models/street/load")).status_code == 200
            api.http.headers["X-Request-ID"] = "the-image"
            for engine in shelf.made:
                engine.close()  # a closed engine fails
            image = {"name": "images", "shape": [1, 32, 64, 3], "datatype": "UINT8", "data": [0] * (32 * 64 * 3)}
            assert (await api.http.post("/v2/models/street/infer", json={"inputs": [image]})).status_code == 500
    finally:
        logging.getLogger("service").removeHandler(handler)
    failures = [line for line in map(json.loads, lines.getvalue().splitlines()) if "engine failed" in line["message"]]
    assert [line.get("request_id") for line in failures] == [None]


async def test_the_calls_are_documented(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("street", "1")
    async with shelving(api_keys=f"ops:{KEY}") as api:
        paths = (await api.get("/openapi.json")).json()["paths"]
        for path in ("index", "models/{name}/load", "models/{name}/unload"):
            operation = paths[f"/v2/repository/{path}"]["post"]
            assert operation["security"] == [{"bearer": []}, {"header": []}]
            assert "401" in operation["responses"]
        content = paths["/v2/repository/models/{name}/load"]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/LoadRequest"}
        assert "model_repository" in (await api.http.get("/v2", headers={"X-API-Key": KEY})).json()["extensions"]
