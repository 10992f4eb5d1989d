"""The clients against a service that is a function: what is sent, what is read, when it is tried again."""

from __future__ import annotations

import asyncio
import io
import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.answers.schemas import AnswerFormat, SegmentQuery
from service.client import (
    AsyncClient,
    Client,
    ClientError,
    Format,
    Parameters,
    Refused,
    RetryPolicy,
    UnexpectedAnswer,
    Unreachable,
)
from tests.support.replies import MakeAsyncClient, MakeClient, MakeProblem, Replies

Labels = NDArray[np.uint8]
PNG = b"\x89PNG the bytes of a file"


def numpy_head(shape: tuple[int, int]) -> bytes:
    """A NumPy file of uint8 without its data."""
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize("url", ["http://host:8000", "http://host:8000/", "http://host:8000/segment"])
def test_an_image_goes_out_and_labels_come_back(
    url: str, client: MakeClient, replies: type[Replies], labelled: httpx.Response, labels: Labels
) -> None:
    service = replies(labelled)
    answer = client(service, url).segment(PNG)
    assert answer.labels().dtype == np.uint8
    np.testing.assert_array_equal(answer.labels(), labels)
    assert (answer.request_id, answer.model_version, answer.media_type) == ("abc", "brightness/1.2.3", "image/png")
    assert answer.server_timing == {"decode": 1.5, "infer": 20.0, "total": 30.0}
    (request,) = service.requests
    assert request.method == "POST"
    assert str(request.url) == "http://host:8000/segment?format=labels"
    assert request.content == PNG
    assert request.headers["content-type"] == "application/octet-stream"
    assert "authorization" not in request.headers
    assert "x-request-timeout-ms" not in request.headers


def test_every_parameter_is_sent(client: MakeClient, replies: type[Replies], labelled: httpx.Response) -> None:
    service = replies(labelled)
    asked = client(service, api_key="secret", request_timeout_ms=2500)
    asked.segment(
        PNG,
        "json",
        palette="none",
        alpha=0.25,
        classes=["Road", 3],
        size="model",
        mode="tile",
        background="f80",
        rle=True,
    )
    (request,) = service.requests
    assert dict(request.url.params) == {
        "format": "json",
        "palette": "none",
        "alpha": "0.25",
        "classes": "Road,3",
        "size": "model",
        "mode": "tile",
        "background": "f80",
        "rle": "true",
    }
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-request-timeout-ms"] == "2500"


def test_the_clients_parameters_are_the_services() -> None:
    assert set(get_args(Format)) == {entry.value for entry in AnswerFormat}
    assert {"format", *get_type_hints(Parameters)} == {
        field.alias or name for name, field in SegmentQuery.model_fields.items()
    }
    for name, kind in get_type_hints(Parameters).items():
        for value in get_args(kind) if "Literal" in str(kind) else ():
            SegmentQuery.model_validate({name: value})


def test_files_and_pixels_are_sent(
    client: MakeClient, replies: type[Replies], labelled: httpx.Response, tmp_path: Path
) -> None:
    service = replies(labelled)
    asked = client(service)
    (tmp_path / "photo.jpg").write_bytes(PNG)
    asked.segment(tmp_path / "photo.jpg")
    asked.segment(str(tmp_path / "photo.jpg"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    asked.segment(pixels)
    asked.segment(pixels[..., 0])
    sent = [request.content for request in service.requests]
    assert sent[:2] == [PNG, PNG]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent[2]))), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent[3]))), pixels[..., 0])
    with pytest.raises(FileNotFoundError):
        asked.segment(tmp_path / "absent.jpg")
    assert len(service.requests) == 4


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_pixels_of_another_form_are_refused(
    wrong: Any, client: MakeClient, replies: type[Replies], labelled: httpx.Response
) -> None:
    service = replies(labelled)
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\) or \(H, W\)"):
        client(service).segment(wrong)
    assert service.requests == []


def test_a_busy_service_is_asked_again_when_it_says(
    client: MakeClient, replies: type[Replies], problem: MakeProblem, labelled: httpx.Response, waits: list[float]
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    service = replies(problem(503, "7"), problem(429, "2"), problem(503, date), problem(504), problem(502), labelled)
    client(service).segment(PNG)
    assert len(service.requests) == 6
    assert waits[:2] == [7, 2]
    assert 15 < waits[2] <= 20
    assert 2 <= waits[3] <= 4
    assert 4 <= waits[4] <= 8


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 422, 500])
def test_what_would_fail_again_is_not_tried_again(
    status: int, client: MakeClient, replies: type[Replies], problem: MakeProblem, waits: list[float]
) -> None:
    service = replies(problem(status, "1"))
    with pytest.raises(Refused):
        client(service).segment(PNG)
    assert len(service.requests) == 1
    assert waits == []


def test_a_problem_is_an_error_with_its_fields(
    client: MakeClient, replies: type[Replies], problem: MakeProblem
) -> None:
    answered = problem(
        413, type="payload-too-large", title="Too large", detail="9 bytes", request_id="xyz", value=9, limit=4
    )
    with pytest.raises(Refused) as caught:
        client(replies(answered)).segment(PNG)
    error = caught.value
    assert str(error) == "http://host:8000/segment answered 413 Request Entity Too Large: 9 bytes"
    assert (error.status, error.type, error.title, error.detail) == (413, "payload-too-large", "Too large", "9 bytes")
    assert error.request_id == "xyz"
    assert (error.members["value"], error.members["limit"]) == (9, 4)
    assert isinstance(error, ClientError)


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", '["no", "object"]', "", "[" * 100_000])
def test_an_error_that_is_no_problem_document_is_told_too(
    body: str, client: MakeClient, replies: type[Replies]
) -> None:
    with pytest.raises(Refused, match="answered 500 Internal Server Error: ") as caught:
        client(replies(httpx.Response(500, text=body))).segment(PNG)
    assert (caught.value.type, caught.value.title, caught.value.detail) == (
        "about:blank",
        "Internal Server Error",
        body[:200],
    )
    assert caught.value.request_id is None


def test_a_service_that_stays_busy_is_given_up(
    client: MakeClient, replies: type[Replies], problem: MakeProblem, waits: list[float]
) -> None:
    service = replies(problem(503, "2"))
    with pytest.raises(Refused, match="answered 503 Service Unavailable: 64 are inside"):
        client(service, retry=RetryPolicy(max_tries=3)).segment(PNG)
    assert len(service.requests) == 3
    assert waits == [2, 2]


def test_a_longer_wait_than_the_limit_is_not_begun(
    client: MakeClient, replies: type[Replies], problem: MakeProblem, waits: list[float]
) -> None:
    with pytest.raises(Refused, match="asks to wait 300 s, at most 30 are waited: 503"):
        client(replies(problem(503, "300"))).segment(PNG)
    assert waits == []


def test_a_service_that_never_answered_is_not_waited_for(
    client: MakeClient, replies: type[Replies], waits: list[float]
) -> None:
    with pytest.raises(Unreachable, match="http://host:8000/segment cannot be reached: refused"):
        client(replies(httpx.ConnectError("refused"))).segment(PNG)
    assert waits == []


def test_a_service_that_is_away_for_a_moment_is_waited_for(
    client: MakeClient, replies: type[Replies], labelled: httpx.Response, waits: list[float], labels: Labels
) -> None:
    service = replies(
        labelled, httpx.ReadError("reset"), httpx.ConnectError("refused"), httpx.RemoteProtocolError("closed"), labelled
    )
    asked = client(service)
    asked.segment(PNG)
    np.testing.assert_array_equal(asked.segment(PNG).labels(), labels)
    assert len(service.requests) == 5
    assert [0.25 <= waits[0] <= 0.5, 0.5 <= waits[1] <= 1, 1 <= waits[2] <= 2] == [True] * 3


def test_a_service_that_is_gone_is_given_up(
    client: MakeClient, replies: type[Replies], labelled: httpx.Response, waits: list[float]
) -> None:
    service = replies(labelled, httpx.ConnectError("refused"))
    asked = client(service)
    asked.segment(PNG)
    with pytest.raises(Unreachable, match="refused"):
        asked.segment(PNG)
    assert len(waits) == 5


def test_silence_is_not_waited_for_again(
    client: MakeClient, replies: type[Replies], labelled: httpx.Response, waits: list[float]
) -> None:
    asked = client(replies(labelled, httpx.ReadTimeout("timed out")))
    asked.segment(PNG)
    with pytest.raises(Unreachable, match="gave no answer in 5 s"):
        asked.segment(PNG)
    assert waits == []


def test_a_port_that_does_not_exist_is_told(client: MakeClient, replies: type[Replies]) -> None:
    service = replies(httpx.Response(200))
    with pytest.raises(Unreachable, match="http://host:65536/segment cannot be reached: port 65536 is above 65535"):
        client(service, "http://host:65536").segment(PNG)
    assert service.requests == []


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_a_file_that_no_service_takes_is_not_read(
    kind: str, tmp_path: Path, client: MakeClient, replies: type[Replies]
) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)  # to read it would wait for a writer
    else:
        with path.open("wb") as stream:
            stream.truncate((1 << 30) + 1)
    service = replies(httpx.Response(200))
    words = {"pipe": "it is not a regular file", "large": "it has 1073741825 bytes, at most 1073741824 are accepted"}
    with pytest.raises(OSError, match=words[kind]):
        client(service).segment(path)
    assert service.requests == []


def test_a_url_without_sense_is_told() -> None:
    with Client("http://host:port") as asked, pytest.raises(Unreachable, match="Invalid port"):
        asked.segment(PNG)
    with Client("host") as asked, pytest.raises(Unreachable, match="missing an 'http://' or 'https://' protocol"):
        asked.segment(PNG)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "no PNG: cannot identify"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4IHDR\0\0\0\1\xde\xad\xbe\xef", "no PNG: "),
        (b"\x93NUMPY\x01\x00", "no NumPy file"),
        (b"\x93NUMPY\x01\x00\x05\x00((((\n", "no NumPy file"),
        (numpy_head((10**9, 10**9)), "no NumPy file: Unable to allocate|no NumPy file: array is too big"),
        (numpy_head((10**30, 5)), "no NumPy file: "),
    ],
)
def test_labels_of_something_else_are_told(
    content: bytes, words: str, client: MakeClient, replies: type[Replies]
) -> None:
    answer = client(replies(httpx.Response(200, content=content))).segment(PNG)
    with pytest.raises(UnexpectedAnswer, match=f"http://host:8000/segment answered {words}"):
        answer.labels()


def test_more_pixels_than_pillow_accepts_are_told(
    client: MakeClient, replies: type[Replies], labelled: httpx.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = client(replies(labelled)).segment(PNG)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UnexpectedAnswer, match=r"no PNG: Image size \(35 pixels\) exceeds limit of 20 pixels"):
        answer.labels()


def test_json_that_is_nested_too_deep_is_told(client: MakeClient, replies: type[Replies]) -> None:
    answer = client(replies(httpx.Response(200, content=b"[" * 100_000))).segment(PNG, "coco")
    with pytest.raises(UnexpectedAnswer, match="no JSON: maximum recursion depth"):
        answer.document()


@pytest.mark.parametrize(
    ("answer_format", "whole"),
    [
        ("overlay", b"\x89PNG\r\n\x1a\nIEND\xaeB`\x82"),
        ("npy", b"\x93NUMPY"),
        ("contours", b"{}"),
        ("labelstudio", b"[]"),
    ],
)
def test_a_body_is_checked_by_its_first_and_last_bytes(
    answer_format: Format, whole: bytes, client: MakeClient, replies: type[Replies]
) -> None:
    client(replies(httpx.Response(200, content=whole))).segment(PNG).check(answer_format)
    cut = [whole[1:], b""] if answer_format == "npy" else [whole[1:], whole[:-1], b""]
    for body in cut:
        with pytest.raises(UnexpectedAnswer, match=f"answered no {answer_format}: {len(body)} bytes of type ''"):
            client(replies(httpx.Response(200, content=body))).segment(PNG).check(answer_format)


def test_a_picture_is_no_label_map(client: MakeClient, replies: type[Replies]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    answer = client(replies(httpx.Response(200, content=stream.getvalue()))).segment(PNG, "color")
    np.testing.assert_array_equal(answer.pixels(), pixels)
    with pytest.raises(UnexpectedAnswer, match="no PNG of class ids: a PNG of mode RGB"):
        answer.labels()


def test_a_label_map_is_no_picture(client: MakeClient, replies: type[Replies], labels: Labels) -> None:
    stream = io.BytesIO()
    Image.fromarray(labels).convert("P").save(stream, "PNG")
    answer = client(replies(httpx.Response(200, content=stream.getvalue()))).segment(PNG)
    with pytest.raises(UnexpectedAnswer, match="a file of mode P"):
        answer.pixels()


def test_a_numpy_file_is_read(client: MakeClient, replies: type[Replies], labels: Labels) -> None:
    def answer_of(array: NDArray[Any]) -> Any:
        stream = io.BytesIO()
        np.save(stream, array)
        return client(replies(httpx.Response(200, content=stream.getvalue()))).segment(PNG, "npy")

    np.testing.assert_array_equal(answer_of(labels).labels(), labels)
    with pytest.raises(UnexpectedAnswer, match=r"no label map: float64 \(5, 7\), expected uint8"):
        answer_of(labels.astype(float)).labels()


def test_a_summary_that_lacks_something_is_told(client: MakeClient, replies: type[Replies]) -> None:
    for body, words in (("<html>", "the body: "), ('{"classes": [{}]}', "SegmentationSummary: size: Field required")):
        answer = client(replies(httpx.Response(200, text=body))).segment(PNG, "json")
        with pytest.raises(UnexpectedAnswer, match=words):
            answer.summary()


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(
    async_client: MakeAsyncClient,
    replies: type[Replies],
    labelled: httpx.Response,
    labels: Labels,
    tmp_path: Path,
) -> None:
    (tmp_path / "photo.jpg").write_bytes(PNG)
    service = replies(labelled)
    async with async_client(service, api_key="secret") as asked:
        np.testing.assert_array_equal((await asked.segment(tmp_path / "photo.jpg", size="model")).labels(), labels)
    (request,) = service.requests
    assert request.content == PNG
    assert request.headers["authorization"] == "Bearer secret"
    assert request.url.params["size"] == "model"


@pytest.mark.anyio
async def test_the_asynchronous_client_tries_again(
    async_client: MakeAsyncClient,
    replies: type[Replies],
    problem: MakeProblem,
    labelled: httpx.Response,
    waits: list[float],
) -> None:
    asked = async_client(replies(problem(503, "7"), labelled, httpx.ReadError("reset"), labelled, problem(400)))
    await asked.segment(PNG)
    assert waits == [7]
    await asked.segment(PNG)
    assert len(waits) == 2
    with pytest.raises(Refused):
        await asked.segment(PNG)
    assert len(waits) == 2


@pytest.mark.anyio
async def test_cancelling_the_asynchronous_client_ends_its_wait(replies: type[Replies], problem: MakeProblem) -> None:
    waiting = asyncio.Event()

    async def wait(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    http = httpx.AsyncClient(transport=httpx.MockTransport(replies(problem(503, "20"))))
    async with AsyncClient("http://host", http=http, sleep=wait) as asked:
        task = asyncio.create_task(asked.segment(PNG))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
