"""Work that nobody wants any more: whose time is over, or whose client has left, in every stage."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from service.imaging.codec import OpenedImage
from service.inference import pipeline
from tests.support.api import Api, Serving
from tests.support.exchange import Exchange
from tests.support.fake_engine import FakeEngine
from tests.support.limits import HANG_S
from tests.support.pictures import Png, Solid, noisy_png

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


class Gate:
    """Stands before a function, and lets nobody through until it is opened."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.calls = 0
        self._function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.opened.wait(HANG_S)
        return self._function(*arguments, **options)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        """As a method it gets the object."""
        return partial(self, instance)

    async def until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, HANG_S)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Gate]]:
    """Puts a gate before a function of the pipeline, or before the decoding of an image."""
    gates: list[Gate] = []

    def put(name: str) -> Gate:
        owner = OpenedImage if name == "decode" else pipeline
        gates.append(made := Gate(getattr(owner, name)))
        monkeypatch.setattr(owner, name, made)
        return made

    yield put
    for made in gates:
        made.opened.set()


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the running event loop forward by some seconds."""

    def move(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + seconds)

    return move


async def answer_another(api: Api, solid: Solid) -> None:
    """Answer one more image: the only codec thread has then done all that came before."""
    assert (await api.post(solid(255))).status_code == 200


@pytest.fixture
async def narrow(serving: Serving, engine: FakeEngine) -> AsyncIterator[Api]:
    """An app with one codec thread."""
    async with serving(codec_threads=1) as api:
        engine.batch_sizes.clear()
        yield api


@dataclass(frozen=True)
class Stage:
    """A stage, a function that runs in it, and one of the next."""

    name: str
    function: str
    following: str | None
    batches: tuple[int, ...] = (1,)


STAGES = [
    Stage("decode", "decode", "labels_of", batches=()),
    Stage("post", "labels_of", "encode_answer"),
    Stage("encode", "encode_answer", None),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
async def test_departure_is_noticed_at_once_in_stages_of_the_codec_threads(
    *,
    stage: Stage,
    gate: Callable[[str], Gate],
    narrow: Api,
    engine: FakeEngine,
    exchange: type[Exchange],
    solid: Solid,
) -> None:
    held, after = gate(stage.function), gate(stage.following) if stage.following else None
    if after is not None:
        after.opened.set()
    request = exchange(narrow.app, PNG, solid(0))
    departing = asyncio.create_task(request.run())
    await held.until_entered()
    request.left.set()
    await departing
    assert request.status == 499
    assert await narrow.metric(f'ecenet_requests_cancelled_total{{stage="{stage.name}"}}') == 1
    held.opened.set()
    await answer_another(narrow, solid)
    assert after is None or after.calls == 1
    assert tuple(engine.batch_sizes) == (*stage.batches, 1)


async def test_departure_is_noticed_while_the_engine_runs(
    engine: FakeEngine, serving: Serving, exchange: type[Exchange], solid: Solid, gate: Callable[[str], Gate]
) -> None:
    async with serving() as api:
        after = gate("labels_of")
        engine.shut()
        request = exchange(api.app, PNG, solid(0))
        departing = asyncio.create_task(request.run())
        await engine.until_entered()
        request.left.set()
        await departing
        assert request.status == 499
        assert await api.metric('ecenet_requests_cancelled_total{stage="infer"}') == 1
        engine.gate.set()
        while api.batcher.backlog:  # noqa: ASYNC110  nobody tells of a result that nobody waits for
            await asyncio.sleep(0)
        assert after.calls == 0


async def test_departure_while_in_line_for_a_codec_thread_is_of_the_stage_to_come(
    gate: Callable[[str], Gate], narrow: Api, exchange: type[Exchange], solid: Solid
) -> None:
    held = gate("decode")
    first = asyncio.create_task(narrow.post(solid(0)))
    await held.until_entered()
    request = exchange(narrow.app, PNG, noisy_png(300, 400))  # large enough to be measured before it waits
    departing = asyncio.create_task(request.run())
    pixels = 64 * 32 + 300 * 400
    while await narrow.metric("ecenet_in_flight_pixels") < pixels:  # noqa: ASYNC110  the metric is tested too
        await asyncio.sleep(0)
    request.left.set()
    await departing
    assert await narrow.metric('ecenet_requests_cancelled_total{stage="decode"}') == 1
    held.opened.set()
    assert (await first).status_code == 200
    assert held.calls == 1
    assert await narrow.metric("ecenet_in_flight_pixels") == 0


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
async def test_expired_work_goes_no_further(
    *,
    stage: Stage,
    gate: Callable[[str], Gate],
    narrow: Api,
    engine: FakeEngine,
    solid: Solid,
    pass_time: Callable[[float], None],
) -> None:
    held, after = gate(stage.function), gate(stage.following) if stage.following else None
    if after is not None:
        after.opened.set()
    headers = {**PNG, "X-Request-Timeout-Ms": "20000"}
    expiring = asyncio.create_task(narrow.http.post("/segment", content=solid(0), headers=headers))
    await held.until_entered()
    pass_time(20)
    problem = narrow.check_problem(
        await expiring, 504, "deadline-exceeded", "within 20 s (X-Request-Timeout-Ms)", f"stage '{stage.name}'"
    )
    assert (problem["limit"], problem["unit"], problem["stage"]) == (20, "seconds", stage.name)
    assert await narrow.metric(f'ecenet_requests_expired_total{{stage="{stage.name}"}}') == 1
    assert held.calls == 1
    held.opened.set()
    await answer_another(narrow, solid)
    assert after is None or after.calls == 1
    assert tuple(engine.batch_sizes) == (*stage.batches, 1)


async def test_expired_work_that_waits_never_reaches_the_engine(
    engine: FakeEngine, serving: Serving, solid: Solid, pass_time: Callable[[float], None]
) -> None:
    async with serving(batch_window_ms=0) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        headers = {**PNG, "X-Request-Timeout-Ms": "5000"}
        expiring = asyncio.create_task(api.http.post("/segment", content=solid(0), headers=headers))
        await api.until_queued(1)
        pass_time(5)
        api.check_problem(await expiring, 504, "deadline-exceeded", "stage 'queue'")
        assert await api.metric('ecenet_images_dropped_total{reason="expired"}') == 1
        engine.gate.set()
        assert (await first).status_code == 200
        assert engine.batch_sizes == [1]


async def test_time_counts_while_the_body_arrives(serving: Serving, exchange: type[Exchange]) -> None:
    async with serving() as api:
        request = exchange(api.app, {**PNG, "x-request-timeout-ms": "30"}, b"half", whole=False)
        await request.run()
        assert request.status == 504
        assert await api.metric('ecenet_requests_expired_total{stage="read"}') == 1


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", "nan", "1e3", ""])
async def test_timeout_that_is_no_number_of_milliseconds_is_answered_422(api: Api, solid: Solid, value: str) -> None:
    headers = {**PNG, "X-Request-Timeout-Ms": value}
    response = await api.http.post("/segment", content=solid(0), headers=headers)
    problem = api.check_problem(response, 422, "invalid-parameter", "X-Request-Timeout-Ms", repr(value))
    assert (problem["parameter"], problem["value"]) == ("X-Request-Timeout-Ms", value)


@pytest.mark.parametrize(
    ("settings", "allowed", "refused"),
    [({"request_timeout_s": 2}, "2000", "2001"), ({"max_request_timeout_s": 120}, "120000", "120001")],
)
async def test_longest_timeout_is_a_setting(
    settings: dict[str, Any], allowed: str, refused: str, serving: Serving, solid: Solid
) -> None:
    async with serving(**settings) as api:
        headers = {**PNG, "X-Request-Timeout-Ms": allowed}
        assert (await api.http.post("/segment", content=solid(0), headers=headers)).status_code == 200
        headers["X-Request-Timeout-Ms"] = refused
        response = await api.http.post("/segment", content=solid(0), headers=headers)
        problem = api.check_problem(response, 422, "invalid-parameter", refused, allowed)
        assert (problem["value"], problem["limit"]) == (int(refused), int(allowed))


async def test_pixels_are_counted_by_the_header_before_any_is_decoded(
    engine: FakeEngine, serving: Serving, solid: Solid, gate: Callable[[str], Gate]
) -> None:
    async with serving(max_pixels_in_flight=64 * 32 + 1) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        decoding = gate("decode")
        problem = api.check_problem(await api.post(solid(0)), 503, "overloaded-pixels", "2048 pixels", "2049")
        assert (problem["value"], problem["limit"], problem["unit"]) == (4096, 2049, "pixels")
        assert decoding.calls == 0
        assert await api.metric('ecenet_requests_rejected_total{reason="overloaded-pixels"}') == 1
        engine.gate.set()
        decoding.opened.set()
        assert (await first).status_code == 200
        assert (await api.post(solid(0))).status_code == 200


async def test_image_beyond_its_own_limit_is_its_own_fault_however_full_the_service_is(
    engine: FakeEngine, serving: Serving, solid: Solid, png: Png
) -> None:
    async with serving(max_pixels_in_flight=2048, max_image_pixels=2048) as api:
        engine.shut()
        first = asyncio.create_task(api.post(solid(0)))
        await engine.until_entered()
        api.check_problem(await api.post(png(32, 96)), 413, "payload-too-large", "3072", "2048")
        engine.gate.set()
        assert (await first).status_code == 200
