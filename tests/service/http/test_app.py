"""The app as a whole: its states, its limits, departed clients, and what it tells of itself."""

from __future__ import annotations

import asyncio

import pytest

from service.lifecycle import State
from service.model_metrics import ModelMetrics
from tests.support.api import Api, Serving
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


async def test_one_request_too_many_is_answered_503_with_retry_after(
    engine: FakeEngine, serving: Serving, solid: Solid
) -> None:
    async with serving(max_requests_in_flight=1) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        assert await api.metric("ecenet_in_flight") == 1
        response = await api.post(solid(0))
        api.check_problem(response, 503, "overloaded", "1 requests")
        assert int(response.headers["retry-after"]) >= 1
        assert await api.metric('ecenet_requests_rejected_total{reason="overloaded"}') == 1
        engine.gate.set()
        assert (await first).status_code == 200


async def test_request_that_takes_too_long_is_answered_504(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(request_timeout_s=0.05) as api:
        engine.shut()
        api.check_problem(await api.post(solid(0)), 504, "deadline-exceeded", "0.05 s")
        assert await api.metric("ecenet_in_flight") == 0
        engine.gate.set()


async def test_requests_before_the_model_is_warm_are_answered_503(
    engine: FakeEngine, serving: Serving, solid: Solid
) -> None:
    engine.shut()
    async with serving(warm=False) as api:
        await engine.until_entered()
        assert (await api.get("/healthz")).json() == {"status": "ok", "state": "starting"}
        api.check_problem(await api.get("/readyz"), 503, "not-ready", "being loaded")
        api.check_problem(await api.post(solid(0)), 503, "not-ready")
        engine.gate.set()
        await api.runtime.started.wait()
        assert (await api.get("/readyz")).json() == {"status": "ok", "state": "ready"}


async def test_failed_start_is_told_by_the_health_checks(
    engine: FakeEngine, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "num_classes", 4)
    async with serving() as api:
        api.check_problem(await api.get("/healthz"), 503, "unavailable", "expected float32 (1, 4, 8, 16)")
        api.check_problem(await api.get("/readyz"), 503, "not-ready")


async def test_stuck_engine_is_told_by_the_health_check(
    engine: FakeEngine, serving_in_process: Serving, solid: Solid
) -> None:
    async with serving_in_process(engine_timeout_s=0.5, batch_window_ms=0) as api:
        engine.shut()
        inside = [asyncio.create_task(api.post(solid(level))) for level in (0, 128)]
        for task in inside:
            api.check_problem(await task, 503, "engine-down", "kept a batch", "0.5 s")
        for path in ("/healthz", "/readyz"):
            api.check_problem(await api.get(path), 503, "engine-down", "kept a batch")
        assert (await api.metric("ecenet_engine_up"), await api.metric("ecenet_ready")) == (0, 0)
        api.check_problem(await api.post(solid(0)), 503, "engine-down")
        assert await api.metric('ecenet_requests_rejected_total{reason="engine-down"}') == 3
        engine.gate.set()
        while (await api.get("/readyz")).status_code == 503:  # noqa: ASYNC110  the health check is what is tested
            await asyncio.sleep(0)
        assert (await api.post(solid(0))).status_code == 200


async def test_draining_process_serves_on_but_asks_for_new_connections(serving: Serving, solid: Solid) -> None:
    async with serving() as api:
        runtime = api.runtime
        runtime.begin_drain()
        api.check_problem(await api.get("/readyz"), 503, "draining")
        assert (await api.get("/healthz")).json()["state"] == "draining"
        response = await api.post(solid(0))
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        await runtime.drain(0)
        api.check_problem(await api.post(solid(0)), 503, "draining")
    assert runtime.lifecycle.state is State.STOPPED


async def test_drain_answers_the_requests_inside(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving() as api:
        engine.shut()
        inside = asyncio.create_task(api.post(solid(255)))
        await engine.until_entered()
        drain = asyncio.create_task(api.runtime.drain(20))
        engine.gate.set()
        assert set(api.pixels(await inside).ravel().tolist()) == {2}
        await drain


async def test_drain_answers_who_is_left_with_503(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving() as api:
        engine.shut()
        inside = asyncio.create_task(api.post(solid(255)))
        await engine.until_entered()
        await api.runtime.drain(0)
        api.check_problem(await inside, 503, "draining", "before this request was answered")
        engine.gate.set()


async def test_work_of_a_departed_client_never_reaches_the_engine(
    engine: FakeEngine, serving: Serving, exchange: type[Exchange], solid: Solid
) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        request = exchange(api.app, {"content-type": "image/png"}, solid(128))
        departing = asyncio.create_task(request.run())
        await api.until_queued(1)
        request.left.set()
        await departing
        assert request.status == 499
        await api.until_queued(0)
        assert await api.metric('ecenet_requests_cancelled_total{stage="queue"}') == 1
        assert await api.metric('ecenet_images_dropped_total{reason="cancelled"}') == 1
        assert await api.metric('ecenet_requests_total{format="labels",status="499"}') == 1
        engine.gate.set()
        assert (await first).status_code == 200
        assert engine.batch_sizes == [1]


async def test_client_that_leaves_during_the_upload_is_counted(serving: Serving, exchange: type[Exchange]) -> None:
    async with serving() as api:
        request = exchange(api.app, {"content-type": "image/png"}, b"half", whole=False)
        request.left.set()
        await request.run()
        assert request.status == 499
        assert await api.metric('ecenet_requests_cancelled_total{stage="read"}') == 1
        assert await api.metric("ecenet_in_flight") == 0


async def test_upload_that_does_not_end_is_answered_504(serving: Serving, exchange: type[Exchange]) -> None:
    async with serving(request_timeout_s=0.05) as api:
        request = exchange(api.app, {"content-type": "image/png"}, b"half", whole=False)
        await request.run()
        assert request.status == 504


async def test_dead_batcher_is_told_by_the_health_check(
    serving_in_process: Serving, solid: Solid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_metrics: ModelMetrics, size: int, seconds: float) -> None:
        raise KeyError("a bug")

    async with serving_in_process() as api:
        monkeypatch.setattr(ModelMetrics, "batch_finished", fail)
        lost = asyncio.create_task(api.post(solid(0)))
        api.check_problem(await lost, 503, "engine-down", "batcher has stopped")
        api.check_problem(await api.get("/healthz"), 503, "engine-down", "batcher has stopped")


async def test_request_id_is_echoed_if_harmless_and_made_otherwise(api: Api) -> None:
    echoed = await api.get("/healthz", **{"X-Request-ID": "job-7:a.b_C"})
    assert echoed.headers["x-request-id"] == "job-7:a.b_C"
    for sent in ("two words", "a" * 129, 'x"y', ""):
        made = (await api.get("/healthz", **{"X-Request-ID": sent})).headers["x-request-id"]
        assert len(made) == 32
        assert made != sent


async def test_server_timing_tells_every_stage(api: Api, solid: Solid) -> None:
    timing = (await api.post(solid(0))).headers["server-timing"]
    names = [entry.partition(";")[0] for entry in timing.split(", ")]
    assert names == ["read", "wait", "decode", "queue", "infer", "post", "encode", "total"]


async def test_answers_and_stages_are_counted(api: Api, solid: Solid) -> None:
    await api.post(solid(0), format="json")
    assert await api.metric('ecenet_requests_total{format="json",status="200"}') == 1
    for stage in ("read", "wait", "decode", "queue", "infer", "post", "encode"):
        assert await api.metric(f'ecenet_stage_seconds_count{{stage="{stage}"}}') == 1
    assert await api.metric("ecenet_batch_size_count") == 1
    assert await api.metric("ecenet_ready") == 1


async def test_root_points_to_the_docs(api: Api) -> None:
    body = (await api.get("/")).json()
    assert body["docs"] == "/docs"
    assert body["model"] == {"name": "brightness", "version": "1.2.3"}
    assert body["try"] == "curl -F file=@photo.png 'http://test/segment?format=color' -o mask.png"


async def test_documentation_describes_both_bodies_and_every_error(api: Api) -> None:
    assert (await api.get("/docs")).status_code == 200
    document = (await api.get("/openapi.json")).json()
    operation = document["paths"]["/segment"]["post"]
    bodies = {"multipart/form-data", "image/*", "application/octet-stream", "application/json"}
    assert set(operation["requestBody"]["content"]) == bodies
    problems = ["400", "404", "406", "413", "415", "422", "500", "503", "504"]
    assert set(operation["responses"]) == {"200", "304", *problems}
    references = {text.partition('"')[0] for text in str(document).replace("'", '"').split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    for status in problems:
        content = operation["responses"][status]["content"]
        assert set(content) == {"application/problem+json"}
        for example in content["application/problem+json"]["examples"].values():
            assert example["value"]["status"] == int(status)
