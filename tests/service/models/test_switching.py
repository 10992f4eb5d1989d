"""Several models behind HTTP: which one answers, and that no request is lost when versions change."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
import pytest

from service.lifecycle import State
from service.model_directory.manifest import Manifest
from tests.support.api import Api
from tests.support.limits import HANG_S
from tests.support.pictures import Solid
from tests.support.shelf import Shelf, Shelving, rescan, until_loaded

pytestmark = pytest.mark.anyio


def classes(api: Api, response: httpx.Response) -> set[int]:
    """The classes in a label map: the number of the version that made it."""
    return set(api.pixels(response).ravel().tolist())


async def test_each_model_answers_under_its_name_and_the_default_without_one(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("night", "1")
    shelf.put("street", "2")
    async with shelving() as api:
        await until_loaded(api)
        for name, version in (("night", 1), ("street", 2), (None, 1)):
            response = await api.post(solid(0), **({} if name is None else {"model": name}))
            assert classes(api, response) == {version}
            assert response.headers["x-model-version"] == str(version)
        summary = (await api.post(solid(0), model="street", format="json")).json()
        assert summary["model"] == {"name": "street", "version": "2"}
        assert await api.metric('ecenet_requests_total{model="night",status="200"}') == 2
        assert await api.metric('ecenet_requests_total{model="street",status="200"}') == 2
        assert await api.metric('ecenet_batch_size_sum{model="street"}') == 2


async def test_an_unknown_model_is_404_and_the_answer_names_those_that_serve(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("night", "1")
    shelf.put("street", "2")
    async with shelving() as api:
        await until_loaded(api)
        response = await api.post(solid(0), model="day")
        problem = api.check_problem(response, 404, "unknown-model", "model 'day' is unknown; served: 'night', 'street'")
        assert (problem["parameter"], problem["value"]) == ("model", "day")
        assert problem["accepted"] == ["night", "street"]
        for path in ("/labels?model=day", "/labels?model="):
            assert (await api.get(path)).status_code == 404
        files = {"file": ("a.png", solid(0))}
        assert (await api.http.post("/segment/batch?model=day", files=files)).status_code == 404
        assert await api.metric('ecenet_requests_total{model="none",status="404"}') == 2
        assert "day" not in (await api.get("/metrics")).text


async def test_the_catalogue_has_all_models(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.put("street", "2", "1")
    async with shelving(default_model="street") as api:
        await until_loaded(api)
        models = (await api.get("/models")).json()["models"]
        assert [(model["name"], model["version"], model["default"]) for model in models] == [
            ("night", "1", False),
            ("street", "2", True),
        ]
        assert models[0]["input_size"] == {"width": 64, "height": 32}
        assert models[0]["engine"] == "fake"
        assert (await api.get("/labels")).json()["model"] == {"name": "street", "version": "2"}
        assert (await api.get("/labels?model=night")).json()["model"] == {"name": "night", "version": "1"}
        await api.runtime.models.unload("street")
        assert [model["name"] for model in (await api.get("/models")).json()["models"]] == ["night"]


async def test_the_protocol_has_each_model_that_serves(shelf: Shelf, shelving: Shelving) -> None:
    shelf.put("night", "1")
    shelf.put("street", "2", "1")
    async with shelving() as api:
        await until_loaded(api)
        for path in ("night", "night/versions/1", "street", "street/versions/2"):
            metadata = await api.get(f"/v2/models/{path}")
            assert metadata.json()["name"] == path.split("/")[0]
            assert (await api.get(f"/v2/models/{path}/ready")).json()["ready"] is True
        for path in ("day", "night/versions/2", "street/versions/1"):
            assert (await api.get(f"/v2/models/{path}")).status_code == 404
            assert (await api.get(f"/v2/models/{path}/ready")).status_code == 404
        images = {"name": "images", "shape": [1, 32, 64, 3], "datatype": "UINT8", "data": [0] * (32 * 64 * 3)}
        for name, version in (("night", 1), ("street", 2)):
            answer = (await api.http.post(f"/v2/models/{name}/infer", json={"inputs": [images]})).json()
            assert (answer["model_name"], answer["model_version"]) == (name, str(version))
            assert set(answer["outputs"][0]["data"]) == {version}


async def test_tags_and_kept_answers_are_of_one_model_and_version(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1")
    async with shelving(cache_bytes=100_000) as api:
        await until_loaded(api)
        first = await api.post(solid(0), model="street")
        other = await api.post(solid(0), model="night")
        shelf.put("street", "2")
        await api.runtime.models.load("street")
        second = await api.post(solid(0), model="street")
        assert (classes(api, first), classes(api, second)) == ({1}, {2})
        assert len({response.headers["etag"] for response in (first, second, other)}) == 3
        await api.runtime.models.load("street", "1")
        again = await api.post(solid(0), model="street")
        assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
        assert await api.metric('ecenet_batch_size_sum{model="street"}') == 2


async def test_kept_answers_are_not_given_in_other_colours(
    shelf: Shelf, shelving: Shelving, solid: Solid, manifest: Manifest
) -> None:
    shelf.put("street", "1")
    async with shelving(cache_bytes=100_000) as api:
        first = await api.post(solid(0), format="color")
        shelf.put("street", "1", classes=tuple(replace(info, color=(1, 2, 3)) for info in manifest.classes))
        await rescan(api)
        second = await api.post(solid(0), format="color")
        assert [api.pixels(response)[0, 0].tolist() for response in (first, second)] == [[40, 50, 60], [1, 2, 3]]
        assert first.headers["etag"] != second.headers["etag"]


async def test_requests_inside_finish_on_the_version_that_they_began_with(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("street", "1")
    async with shelving() as api:
        old = shelf.engines["street", "1"]
        old.entered.clear()
        old.gate.clear()
        inside = [asyncio.create_task(api.post(solid(level))) for level in range(3)]
        assert await asyncio.to_thread(old.entered.wait, HANG_S)
        while await api.metric("ecenet_in_flight") < 3:  # noqa: ASYNC110  the metric tells that they are inside
            await asyncio.sleep(0)
        shelf.put("street", "2")
        await api.runtime.models.load("street")
        assert classes(api, await api.post(solid(0))) == {2}
        assert not old.closed.is_set()
        old.gate.set()
        for response in await asyncio.gather(*inside):
            assert (classes(api, response), response.headers["x-model-version"]) == ({1}, "1")
        assert await asyncio.to_thread(old.closed.wait, HANG_S)


async def test_a_batch_is_of_one_version(shelf: Shelf, shelving: Shelving, solid: Solid) -> None:
    shelf.put("street", "1")
    async with shelving(max_requests_in_flight=1) as api:
        old = shelf.engines["street", "1"]
        old.entered.clear()
        old.gate.clear()
        files = [("file", (f"{level}.png", solid(level))) for level in range(6)]
        parameters = {"format": "npy", "envelope": "multipart"}
        inside = asyncio.create_task(api.http.post("/segment/batch", params=parameters, files=files))
        assert await asyncio.to_thread(old.entered.wait, HANG_S)
        shelf.put("street", "2")
        await api.runtime.models.load("street")
        old.gate.set()
        response = await inside
        assert response.headers["x-model-version"] == "1"
        assert response.content.count(bytes([1]) * 64 * 32) == 6
        assert await asyncio.to_thread(old.closed.wait, HANG_S)


async def test_a_hundred_switches_lose_no_request(shelf: Shelf, shelving: Shelving, solid: Solid) -> None:
    shelf.put("street", "1", "2")
    answers: list[tuple[str, int]] = []
    is_over = asyncio.Event()

    async def ask(api: Api, level: int) -> None:
        while not is_over.is_set():
            response = await api.post(solid(level), palette="none")
            (found,) = classes(api, response)
            answers.append((response.headers["x-model-version"], found))

    async with shelving() as api:
        async with asyncio.TaskGroup() as clients:
            for level in range(6):
                clients.create_task(ask(api, level))
            for version in ("1", "2") * 50:
                before = len(answers)
                await api.runtime.models.load("street", version)
                while len(answers) == before:  # noqa: ASYNC110  an answer between any two switches
                    await asyncio.sleep(0)
            is_over.set()
        assert {(version, int(version)) for version, _ in answers} == set(answers) == {("1", 1), ("2", 2)}
        assert len(shelf.made) == 101
        *old, serving = shelf.made
        for engine in old:
            assert await asyncio.to_thread(engine.closed.wait, HANG_S)
        assert not serving.closed.is_set()
        assert len(api.runtime.models.open_models) == 1
        assert await api.metric('ecenet_model_loads_total{result="success"}') == 101


async def test_a_stuck_engine_harms_its_own_model_and_turns_liveness_false(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1", "2")
    async with shelving(engine_timeout_s=0.5) as api:
        await until_loaded(api)
        stuck = shelf.engines["street", "2"]
        stuck.gate.clear()
        api.check_problem(await api.post(solid(0), model="street"), 503, "engine-down", "kept a batch")
        for path in ("/healthz", "/readyz"):
            api.check_problem(await api.get(path), 503, "engine-down", "street: the engine has kept a batch")
        assert (await api.get("/v2/models/street/ready")).status_code == 503
        assert (await api.get("/v2/models/night/ready")).status_code == 200
        assert await api.metric('ecenet_engine_up{model="street"}') == 0
        assert await api.metric('ecenet_engine_up{model="night"}') == 1
        assert await api.metric('ecenet_requests_total{model="street",status="503"}') == 1
        assert classes(api, await api.post(solid(0), model="night")) == {1}
        states = [(entry.name, entry.version, entry.state) for entry in await api.runtime.models.index()]
        assert states[:2] == [("night", "1", "READY"), ("street", "2", "UNAVAILABLE")]
        await api.runtime.models.load("street", "1")
        assert (await api.get("/healthz")).status_code == 200
        assert classes(api, await api.post(solid(0), model="street")) == {1}
        stuck.gate.set()
        assert await asyncio.to_thread(stuck.closed.wait, HANG_S)


async def test_requests_to_all_models_share_one_bound(shelf: Shelf, shelving: Shelving, solid: Solid) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1")
    async with shelving(max_requests_in_flight=1) as api:
        await until_loaded(api)
        engine = shelf.engines["night", "1"]
        engine.entered.clear()
        engine.gate.clear()
        inside = asyncio.create_task(api.post(solid(0), model="night"))
        assert await asyncio.to_thread(engine.entered.wait, HANG_S)
        api.check_problem(await api.post(solid(0), model="street"), 503, "overloaded", "1 requests")
        engine.gate.set()
        assert (await inside).status_code == 200


async def test_a_drain_answers_requests_of_all_models_and_of_old_versions(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    shelf.put("night", "1")
    shelf.put("street", "1", "2")
    async with shelving() as api:
        await until_loaded(api)
        inside = []
        for name, version in (("night", "1"), ("street", "2")):
            engine = shelf.engines[name, version]
            engine.entered.clear()
            engine.gate.clear()
            inside.append(asyncio.create_task(api.post(solid(0), model=name)))
            assert await asyncio.to_thread(engine.entered.wait, HANG_S)
        await api.runtime.models.load("street", "1")
        drain = asyncio.create_task(api.runtime.drain(20))
        for engine in shelf.made:
            engine.gate.set()
        assert [classes(api, response) for response in await asyncio.gather(*inside)] == [{1}, {2}]
        await drain
    assert api.runtime.lifecycle.state is State.STOPPED
    for engine in shelf.made:
        assert await asyncio.to_thread(engine.closed.wait, HANG_S)


async def test_a_batch_waits_for_requests_to_its_own_model_alone(
    shelf: Shelf, shelving: Shelving, solid: Solid
) -> None:
    """A window is waited for only while somebody comes."""
    shelf.put("night", "1")
    shelf.put("street", "1")
    async with shelving(batch_window_ms=1000 * HANG_S) as api:
        await until_loaded(api)
        async with api.runtime.pipeline("night").admit():
            waiting = asyncio.create_task(api.post(solid(0), model="night"))
            await api.until_queued(1)
            other = asyncio.create_task(api.post(solid(0), model="street"))
            done, _ = await asyncio.wait({waiting, other}, return_when=asyncio.FIRST_COMPLETED)
            assert done == {other}
        assert classes(api, await waiting) == classes(api, await other) == {1}
