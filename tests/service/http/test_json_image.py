"""Images as JSON: base64 and data URIs in, sentences for everything else."""

from __future__ import annotations

import base64
import json
import random
import time

import pytest

from service.errors import BadRequest, InvalidParameter, PayloadTooLarge, ServiceError
from service.http.json_image import parse_json_image
from service.request.json_bounds import MAX_MEMBERS, PIECE_BYTES
from tests.support.hostile import IMAGE_JSON

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
    "sent", [b"", b"{", b'{"image": "QUJD"', b'{"image": "QUJD', b"\xff\xfe", b"[" * 60_000, b"{'image': 1}"]
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


@pytest.mark.parametrize("escape", ["\\u002b", "\\u002B", "+\\n", "+\\r\\n", "+\\t", "+ "])
@pytest.mark.parametrize("place", range(PIECE_BYTES - 7, PIECE_BYTES + 1))
def test_escapes_at_the_edge_of_a_piece_are_undone(escape: str, place: int) -> None:
    text = "A" * place + escape + "A" * (PIECE_BYTES - place + 3)
    data = parse_json_image(f'{{"image": "{text}"}}'.encode())
    assert data == base64.b64decode("A" * place + "+" + "A" * (PIECE_BYTES - place + 3))


@pytest.mark.parametrize("space", ["\\n", "\\r\\n", " "])
def test_space_behind_the_padding_in_another_piece_is_taken(space: str) -> None:
    data = bytes(PIECE_BYTES // 4 * 3 - 2)
    text = base64.b64encode(data).decode() + space
    assert parse_json_image(f'{{"image": "{text}"}}'.encode()) == data


@pytest.mark.parametrize("fault", [b"\n", b"\x00", b"\xff", b"\\x", b"\\ud800", b"\\\\", b"\\"])
def test_a_text_that_is_not_one_of_json_is_not_base64(fault: bytes) -> None:
    with pytest.raises(ServiceError, match=r"not base64|does not end"):
        parse_json_image(b'{"image": "' + TEXT.encode() + fault + b'"}')


@pytest.mark.parametrize(
    "sent",
    [
        b'{"image": "QUJD", "image": "QUJD"}',
        b'{"image": "QUJD", "im\\u0061ge": "QUJD"}',
        b'{"im\\u0061ge": "QUJD"}',
    ],
)
def test_an_image_that_is_there_twice_or_under_an_escaped_key_is_refused(sent: bytes) -> None:
    with pytest.raises(InvalidParameter, match="written with escapes, or there are two"):
        parse_json_image(sent)


def test_quotes_within_texts_are_not_keys() -> None:
    with pytest.raises(InvalidParameter, match="key 'a\"image' is unknown"):
        parse_json_image(b'{"a\\"image": "x", "image": "QUJD"}')


@pytest.mark.parametrize(
    ("sent", "error", "reason"),
    [
        (body("data:" + ";" * 2_000_000), InvalidParameter, "expected one with ;base64"),
        (body("data:" + ";" * 2_000_000 + ",QUJD"), InvalidParameter, "expected one with ;base64"),
        (b"{" + b",".join(b'"%d":0' % key for key in range(5_000)) + b"}", BadRequest, f"at most {MAX_MEMBERS}"),
        (b'{"image": [' + b"0," * 200_000 + b"0]}", PayloadTooLarge, "400014 bytes beside the text of 'image'"),
        (b"{" + b",".join(b'"%d":0' % key for key in range(50_000)) + b"}", PayloadTooLarge, "at most 65536"),
        (body("", text="a:" * 10_000), BadRequest, f"at most {MAX_MEMBERS}"),
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


@pytest.mark.parametrize("name", IMAGE_JSON)
def test_hostile_json_is_refused_and_costs_little(name: str) -> None:
    sent = IMAGE_JSON[name]()
    began = time.thread_time()
    with pytest.raises(ServiceError):
        parse_json_image(sent)
    # Measured: 80 ms at most, in pieces of 13 ms.
    assert time.thread_time() - began < 0.3
