"""Requests of many images on the wire: hostile bodies, slow and departing clients, and the memory that all may take."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.support.api import Api, Serving
from tests.support.fake_engine import FakeEngine
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


PATH = "/segment/batch"
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
END = b"--b--\r\n"
MULTIPART = "multipart/mixed"


def part(content: bytes, disposition: str = 'form-data; name="file"; filename="a.png"') -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


async def send_body(api: Api, body: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    response: httpx.Response = await api.http.post(PATH, content=body, headers={**FORM, **headers})
    return response


def check_nothing_is_held(api: Api) -> None:
    memory = api.app.state.many_images_memory
    assert (memory.held, memory.requests, memory.images) == (0, 0, 0)


class Client:
    """One request at the level of ASGI, whose answer is taken piece by piece."""

    def __init__(self, api: Api, body: bytes, query: str = "") -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.left = asyncio.Event()
        headers = [(b"content-type", FORM["Content-Type"].encode()), (b"accept", MULTIPART.encode())]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("test", 1),
            "server": ("test", 80),
        }
        self._body: bytes | None = body
        self.task = asyncio.create_task(api.app(self._scope, self._receive, self._send))

    async def until(self, words: bytes) -> bytes:
        """Wait until ``words`` have come; gives all that has come since the last call."""
        seen = b""
        while words not in seen:
            seen += await self.pieces.get()
        return seen

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        self.pieces.put_nowait(message.get("body", b""))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (part(b"x") * 10_000 + END, 400, "more than 64 fields 'file'"),
        (part(b"x", 'form-data; name="other"') * 10_000 + END, 400, "more than 16 fields"),
        (part(b"x", "form-data") + END, 422, "'file' is missing, found ['']"),
        (part(b"x", 'form-data; name="file"') + END, 422, "is text, not a file"),
        (part(b"x" * 500), 400, "closing boundary is missing"),
        (part(b"x")[:-20], 400, "closing boundary is missing"),
        (b"--other\r\n\r\nx\r\n--other--\r\n", 400, "cannot be parsed"),
        (b"", 400, "closing boundary is missing"),
        (END, 422, "'file' is missing"),
        (b"--b\r\nX: " + b"x" * 100_000, 400, "cannot be parsed"),
    ],
)
async def test_hostile_forms_are_problems_and_leave_nothing(api: Api, body: bytes, status: int, words: str) -> None:
    response = await send_body(api, body)
    api.check_problem(response, status, "invalid-parameter" if status == 422 else "bad-request", words)
    check_nothing_is_held(api)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("form-data; name=file; filename*=UTF-8''stra%C3%9Fe%20%22a%22.png", 'straße "a".png'),
        ("form-data; filename*=utf-8'de'a.png ; name=file", "a.png"),
        ("form-data; name=file; filename*=UTF-8''a.png; filename=b.png", "b.png"),
        ("form-data; name=file; filename*=UTF-8''100%zz%.png", "100%zz%.png"),
        ("form-data; name=file; filename*=zip''%ff.png", "\ufffd.png"),
        ("form-data; name=file; filename*=UTF-8''%00%0d%0aStatus: 500", "\0\r\nStatus: 500"),
        ("form-data; name=file; filename*=a.png", "a.png"),
        ("form-data; name=file; filename*=", ""),
        ("form-data; name=file; filename*=''", ""),
    ],
)
async def test_an_extended_file_name_makes_a_file_too(api: Api, solid: Solid, disposition: str, name: str) -> None:
    response = await send_body(api, part(solid(128), disposition) + END, Accept="application/zip")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        (entry,) = json.loads(archive.read("index.json"))["images"]
    assert (entry["name"], entry["status"]) == (name, 200)
    mixed = await send_body(api, part(solid(128), disposition) + END, Accept=MULTIPART)
    assert mixed.content.count(b"\r\nStatus: ") == mixed.content.count(b"\r\nStatus: 200\r\n") == 1


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; name=file; x="; filename*=a"',
        'form-data; name=file; x="; filename*=a',
        "form-data; name=file; x-filename*=a",
    ],
)
async def test_an_extended_file_name_within_another_parameter_makes_no_file(api: Api, disposition: str) -> None:
    api.check_problem(await send_body(api, part(b"x", disposition) + END), 422, "invalid-parameter", "is text")


async def test_body_without_a_length_is_bounded_while_it_arrives(serving: Serving) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield part(b"")[:-2]
        while True:
            yield bytes(1000)

    async with serving(max_many_images_bytes=4096) as api:
        problem = api.check_problem(await send_body(api, endless()), 413, "payload-too-large", "at most 4096")
        assert 4096 < problem["value"] <= 5200
        check_nothing_is_held(api)


async def test_part_larger_than_an_image_may_be_has_its_own_status(api: Api, solid: Solid) -> None:
    response = await send_body(api, part(bytes(5000)) + part(solid(0)) + END, Accept=MULTIPART)
    assert response.status_code == 200
    assert response.text.count("Status: ") == 2
    assert "Status: 413" in response.text
    assert "at most 4096 are accepted" in response.text
    assert "Status: 200" in response.text


async def test_slow_sender_has_the_time_of_a_request_and_no_more(serving: Serving) -> None:
    stalled = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield part(b"x" * 500)
        await stalled.wait()

    async with serving(request_timeout_s=0.1) as api:
        api.check_problem(await send_body(api, slow()), 504, "deadline-exceeded", "stage 'read'")
        check_nothing_is_held(api)


async def test_all_requests_share_a_memory(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    body = part(solid(0) + bytes(1500)) + END
    async with serving(many_images_memory_bytes=4096, cache_bytes=0) as api:
        engine.shut()
        first, second = Client(api, body), Client(api, body)
        await engine.until_entered()
        while api.app.state.many_images_memory.images < 2:  # noqa: ASYNC110  the memory is what is tested
            await asyncio.sleep(0)
        sent: list[bytes] = []

        async def watched() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 100):
                sent.append(body[start : start + 100])
                yield sent[-1]

        announced = await send_body(api, watched(), **{"Content-Length": str(len(body))})
        problem = api.check_problem(announced, 503, "overloaded", "4096")
        assert (problem["limit"], problem["unit"]) == (4096, "bytes")
        assert announced.headers["retry-after"] == "1"
        assert sent == []
        api.check_problem(await send_body(api, watched()), 503, "overloaded", "4096")
        assert 0 < len(sent) < 16
        assert await api.metric('ecenet_requests_rejected_total{reason="overloaded"}') == 2
        engine.gate.set()
        for client in (first, second):
            assert b"Status: 200" in await client.until(b"--\r\n")
            await client.task
        check_nothing_is_held(api)


async def test_too_many_requests_at_once_are_refused(engine: FakeEngine, serving: Serving, solid: Solid) -> None:
    async with serving(max_requests_in_flight=2) as api:
        engine.shut()
        clients = [Client(api, part(solid(0)) + END) for _ in range(2)]
        while api.app.state.many_images_memory.images < 2:  # noqa: ASYNC110  the memory is what is tested
            await asyncio.sleep(0)
        problem = api.check_problem(await send_body(api, part(solid(0)) + END), 503, "overloaded", "2 requests")
        assert problem["limit"] == 2
        engine.gate.set()
        for client in clients:
            assert b"Status: " in await client.until(b"--\r\n")


async def test_answers_are_sent_before_the_last_image_is_done(api: Api, engine: FakeEngine, solid: Solid) -> None:
    engine.shut()
    client = Client(api, part(b"no image") + part(solid(255)) + END)
    early = await client.until(b"not-an-image")
    assert b"Status: 400" in early
    assert b"Status: 200" not in early
    assert not client.task.done()
    engine.gate.set()
    assert b"Status: 200" in await client.until(b"--\r\n")
    await client.task


async def test_client_that_leaves_ends_the_work(api: Api, engine: FakeEngine, solid: Solid) -> None:
    engine.shut()
    client = Client(api, part(b"no image") + part(solid(255)) * 30 + END)
    await client.until(b"not-an-image")
    await engine.until_entered()
    client.left.set()
    await client.task
    check_nothing_is_held(api)
    assert await api.metric("ecenet_in_flight") == 0
    assert await api.metric('ecenet_requests_total{format="labels",status="400"}') == 1
    assert await api.metric('ecenet_requests_total{format="labels",status="499"}') == 30
    engine.gate.set()
    assert sum(engine.batch_sizes) <= 4


async def test_client_that_stops_reading_is_given_up(
    serving: Serving, solid: Solid, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(request_timeout_s=0.1) as api:
        body = part(solid(0)) * 3 + END
        client = Client(api, body)
        client.reads.clear()
        await client.task
        check_nothing_is_held(api)
    assert "read nothing of the answer for 0.1 s" in caplog.text


async def test_request_that_is_inside_is_answered_whole_during_a_drain(
    engine: FakeEngine, serving: Serving, solid: Solid
) -> None:
    async with serving() as api:
        engine.shut()
        client = Client(api, part(solid(0)) * 20 + END)
        await engine.until_entered()
        drain = asyncio.create_task(api.runtime.drain(20))
        await asyncio.sleep(0)
        api.check_problem(await send_body(api, part(solid(0)) + END), 503, "draining")
        engine.gate.set()
        answer = await client.until(b"--\r\n")
        assert answer.count(b"Status: 200") == 20
        await drain
