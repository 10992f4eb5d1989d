"""A service as a predictor: what is sent, how long is waited, and what is told of failures."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import Client
from service.imaging.codec import decode, encode_label_png, encode_rgb_png
from trainer.prediction.http import HttpPredictor, ServiceError

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
LABELS = (IMAGE[..., 0] % 3).astype(np.uint8)
PALETTE = bytes(range(9))
LABELLED = httpx.Response(200, content=encode_label_png(LABELS, PALETTE))


class Waits(list[float]):
    """Seconds that were waited."""


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def predictor(waits: Waits) -> Callable[..., HttpPredictor]:
    """A predictor whose requests get the given answers in turn, the last again and again; it checks what it is sent."""

    def make(*answers: httpx.Response, url: str = "http://host:8000") -> HttpPredictor:
        left = list(answers)
        asked = dict(httpx.URL(url).params.items())

        def answer(request: httpx.Request) -> httpx.Response:
            assert (request.method, request.url.path) == ("POST", "/segment")
            assert dict(request.url.params.items()) | asked == dict(request.url.params.items())
            sent = decode(request.content, max_image_bytes=1 << 20, max_image_pixels=1 << 20).pixels
            if request.url.params["format"] == "labels":
                assert np.array_equal(sent, IMAGE)
            return left.pop(0) if len(left) > 1 else left[0]

        http = httpx.Client(transport=httpx.MockTransport(answer))
        return HttpPredictor(url, client=Client(url.partition("?")[0], http=http, sleep=waits.append))

    return make


def unavailable(retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(503, json={"detail": "64 requests are in the service already"}, headers=headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8000",
        "http://host:8000/",
        "http://host:8000/segment",
        "http://host:8000?mode=tile",
        "http://host:8000/segment?mode=tile&model=street",
    ],
)
def test_the_labels_of_the_service_come_back(url: str, predictor: Callable[..., HttpPredictor]) -> None:
    assert np.array_equal(predictor(LABELLED, url=url)(IMAGE), LABELS)


def test_a_query_that_would_change_more_than_labels_is_refused() -> None:
    with pytest.raises(ServiceError, match=r"^size in the URL's query: expected background, mode, model only$"):
        HttpPredictor("http://host:8000?mode=tile&size=model")


def test_class_names_come_in_the_order_of_their_ids(predictor: Callable[..., HttpPredictor]) -> None:
    classes = [{"id": 1, "name": "sky"}, {"id": 0, "name": "road"}]
    assert predictor(httpx.Response(200, json={"classes": classes})).class_names() == ("road", "sky")
    for body in ("<html>", "[]", '{"classes": [3]}'):
        with pytest.raises(ServiceError, match=r"/segment\?format=json lists no classes"):
            predictor(httpx.Response(200, text=body)).class_names()


def test_a_busy_service_is_asked_again_when_it_says(predictor: Callable[..., HttpPredictor], waits: Waits) -> None:
    assert np.array_equal(predictor(unavailable("7"), unavailable("3"), LABELLED)(IMAGE), LABELS)
    assert waits == [7, 3]


def test_a_service_that_stays_busy_is_given_up_after_six_tries(
    predictor: Callable[..., HttpPredictor], waits: Waits
) -> None:
    with pytest.raises(ServiceError, match="answered 503 Service Unavailable: 64 requests are in the service already"):
        predictor(unavailable("2"))(IMAGE)
    assert waits == [2] * 5


def test_a_longer_wait_than_the_limit_is_not_begun(predictor: Callable[..., HttpPredictor], waits: Waits) -> None:
    with pytest.raises(ServiceError, match="asks to wait 300 s, at most 30 are waited: 503"):
        predictor(unavailable("300"))(IMAGE)
    assert waits == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (httpx.Response(413, json={"detail": "the image has 9 bytes"}), "answered 413 .*: the image has 9 bytes$"),
        (httpx.Response(500, text="oops"), "answered 500 Internal Server Error: oops$"),
        (httpx.Response(404, json=["nothing"]), "answered 404 Not Found"),
        (httpx.Response(307, headers={"location": "/elsewhere"}), "answered 307"),
        (httpx.Response(200, text="hello"), "answered no PNG: cannot identify"),
        (httpx.Response(200, content=encode_label_png(LABELS, PALETTE)[:50]), "answered no PNG: "),
        (httpx.Response(200, content=encode_rgb_png(IMAGE)), "answered no PNG of class ids: a PNG of mode RGB"),
        (
            httpx.Response(200, content=encode_label_png(LABELS[1:], PALETTE)),
            r"answered \(4, 7\) labels for an image of \(5, 7\)",
        ),
    ],
)
def test_what_is_no_label_map_is_told(
    answer: httpx.Response, message: str, predictor: Callable[..., HttpPredictor], waits: Waits
) -> None:
    with pytest.raises(ServiceError, match=f"http://host:8000/segment {message}"):
        predictor(answer)(IMAGE)
    assert waits == []


def test_labels_in_greys_are_class_ids_too(predictor: Callable[..., HttpPredictor]) -> None:
    stream = io.BytesIO()
    Image.fromarray(LABELS).save(stream, "PNG")
    assert np.array_equal(predictor(httpx.Response(200, content=stream.getvalue()))(IMAGE), LABELS)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so nobody else's, and refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_refused_connection_is_told(closed_port: int) -> None:
    predictor = HttpPredictor(f"http://127.0.0.1:{closed_port}")
    with pytest.raises(ServiceError, match=rf"http://127.0.0.1:{closed_port}/segment cannot be reached: .*refused"):
        predictor(IMAGE)
    predictor.close()


def test_a_url_without_sense_and_a_silent_service_are_told() -> None:
    with pytest.raises(ServiceError, match="http://host:port/segment cannot be reached: Invalid port"):
        HttpPredictor("http://host:port")(IMAGE)

    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out", request=request)

    client = Client("http://host", http=httpx.Client(transport=httpx.MockTransport(silent), timeout=120))
    with pytest.raises(ServiceError, match="gave no answer in 120 s"):
        HttpPredictor("http://host", client=client)(IMAGE)
