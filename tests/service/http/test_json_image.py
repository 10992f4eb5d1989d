"""Images as JSON: base64 and data URIs in, sentences for everything else."""

from __future__ import annotations

import base64
import json

import pytest

from service.errors import BadRequest, InvalidParameter
from service.http.json_image import parse_json_image

DATA = bytes(range(256))
TEXT = base64.b64encode(DATA).decode()


def body(image: object, **others: object) -> bytes:
    return json.dumps({"image": image, **others}).encode()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"DATA:image/svg+xml;charset=utf-8;BASE64,{TEXT}",
        base64.encodebytes(DATA).decode(),
    ],
)
def test_base64_and_data_uris_give_the_bytes(text: str) -> None:
    assert parse_json_image(body(text)) == DATA


@pytest.mark.parametrize("address", ["http://example.org/a.png", "HTTPS://example.org", "file:///etc/passwd", "ftp:x"])
def test_addresses_are_not_fetched(address: str) -> None:
    with pytest.raises(InvalidParameter, match="addresses are not fetched: send the file's bytes as base64") as caught:
        parse_json_image(body(address))
    assert address in caught.value.detail
    assert caught.value.extra == {"parameter": "image", "value": address}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (body("data:image/png,%89PNG"), r"expected one with ;base64"),
        (body("a photo"), "not base64"),
        (body("QUI"), "not base64"),
        (body("QUJD!"), "not base64"),
        (body("Q-_D"), "not base64"),
        (body("\u00e4\u00f6"), "not base64"),
        (body(None), "image is None, expected text"),
        (body([1] * 100), r"image is \[1, 1, .*\.\.\., expected text"),
        (body(TEXT, format="color"), "key 'format' is unknown, expected 'image' alone"),
        (b"{}", "key 'image' is missing"),
        (b"[]", r"the body is \[\], expected an object"),
        (b"7", "the body is 7, expected an object"),
    ],
)
def test_wrong_values_are_named(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidParameter, match=reason) as caught:
        parse_json_image(sent)
    assert len(caught.value.detail) < 250


@pytest.mark.parametrize(
    "sent", [b"", b"{", b'{"image": "QUJD"', b"\xff\xfe", b'{"image": "\xff"}', b"[" * 100_000, b"{'image': 1}"]
)
def test_what_is_no_json_is_told(sent: bytes) -> None:
    with pytest.raises(BadRequest, match="the body is no JSON") as caught:
        parse_json_image(sent)
    assert caught.value.status == 400


def test_long_values_are_shortened() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_json_image(body("!" * 1_000_000))
    assert len(caught.value.detail) < 200
    assert len(caught.value.extra["value"]) == 64
