"""Images as JSON: base64 and data URIs in, sentences for everything else."""

from __future__ import annotations

import base64
import json
import random
import time

import pytest

from service.errors import BadRequest, InvalidParameter, PayloadTooLarge
from service.http.json_image import parse_json_image
from service.request.json_bounds import MAX_MEMBERS, PIECE_BYTES

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
    with pytest.raises(BadRequest, match="the body is not JSON") as caught:
        parse_json_image(sent)
    assert caught.value.status == 400


def test_long_values_are_shortened() -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_json_image(body("!" * 1_000_000))
    assert len(caught.value.detail) < 200
    assert len(caught.value.extra["value"]) == 64


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize("escape", ["/", "\\/"])
def test_large_images_are_decoded_in_pieces(prefix: str, escape: str) -> None:
    data = random.Random(0).randbytes(3 * PIECE_BYTES + 7)
    text = prefix + base64.b64encode(data).decode().replace("/", escape)
    assert parse_json_image(f'{{"image": "{text}"}}'.encode()) == data


@pytest.mark.parametrize("place", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 3])
@pytest.mark.parametrize("fault", ["=", "!", "\u00e4"])
def test_a_fault_in_any_piece_is_told(place: int, fault: str) -> None:
    text = "A" * place + fault + "A" * (3 * PIECE_BYTES)
    with pytest.raises(InvalidParameter, match="not base64"):
        parse_json_image(f'{{"image": "{text}"}}'.encode())


def test_escapes_of_any_kind_are_undone() -> None:
    assert parse_json_image(b'{"image": "\\u0051UJD"}') == b"ABC"


def test_a_large_text_of_an_unusual_form_is_decoded_too() -> None:
    data = random.Random(1).randbytes(3 * PIECE_BYTES + 5)
    text = "\\u00" + f"{ord(base64.b64encode(data)[:1]):02x}" + base64.b64encode(data).decode()[1:]
    assert parse_json_image(f'{{"image": "{text}"}}'.encode()) == data
    with pytest.raises(InvalidParameter, match="not base64"):
        parse_json_image(f'{{"image": "\\u0041===={text}"}}'.encode())


def test_control_characters_within_a_text_are_no_json() -> None:
    with pytest.raises(BadRequest, match="the body is not JSON: control character"):
        parse_json_image(b'{"image": "' + TEXT.encode() + b"\n" + b'"}')


@pytest.mark.parametrize(
    ("sent", "error", "reason"),
    [
        (body("data:" + ";" * 2_000_000), InvalidParameter, "expected one with ;base64"),
        (body("data:" + ";" * 2_000_000 + ",QUJD"), InvalidParameter, "expected one with ;base64"),
        (b"{" + b",".join(b'"%d":0' % key for key in range(50_000)) + b"}", BadRequest, f"at most {MAX_MEMBERS}"),
        (b'{"image": [' + b"0," * 200_000 + b"0]}", PayloadTooLarge, "at most 100000 are accepted"),
        (body("a:" * 100_000), BadRequest, f"at most {MAX_MEMBERS}"),
        (body("A " * 1_000_001), InvalidParameter, "not base64"),
        (body("a" * 2_000_000 + ":"), InvalidParameter, "not base64"),
    ],
)
def test_hostile_bodies_cost_little(sent: bytes, error: type[Exception], reason: str) -> None:
    began = time.process_time()
    with pytest.raises(error, match=reason):
        parse_json_image(sent)
    # Measured: some milliseconds.
    assert time.process_time() - began < 0.3
