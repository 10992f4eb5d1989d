"""The wire forms of tensors: both directions, and every way in which data and shape can disagree."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import BadRequest
from service.inference_protocol.tensors import (
    byte_strings_from_binary,
    byte_strings_from_json,
    pixels_from_binary,
    pixels_from_json,
    to_binary,
    to_json,
)
from service.request.json_bounds import PIECE_BYTES, Inner

SHAPE = (2, 2, 2, 3)
PIXELS = np.arange(24, dtype=np.uint8).reshape(SHAPE) * 11


def items(data: list[Any], **options: Any) -> Inner:
    """The items of a list in JSON."""
    text = json.dumps(data, **options).encode()
    return Inner(text, 1, len(text) - 1)


def items_of(text: bytes) -> Inner:
    """Items as a client may write them."""
    return Inner(text, 0, len(text))


def test_pixels_come_from_binary_data_flat_lists_and_nested_lists() -> None:
    assert np.array_equal(pixels_from_binary("images", memoryview(PIXELS.tobytes()), SHAPE), PIXELS)
    assert np.array_equal(pixels_from_json("images", items(PIXELS.ravel().tolist()), SHAPE), PIXELS)
    assert np.array_equal(pixels_from_json("images", items(PIXELS.tolist()), SHAPE), PIXELS)


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\t", ":")])
@pytest.mark.parametrize("is_nested", [True, False])
def test_large_json_pixels_are_read_in_pieces_however_they_are_spaced(
    indent: int | None, separators: tuple[str, str], is_nested: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 150, 200, 3), np.uint8)
    data = (pixels if is_nested else pixels.ravel()).tolist()
    text = items(data, indent=indent, separators=separators)
    assert text.end > 2 * PIECE_BYTES
    assert np.array_equal(pixels_from_json("images", text, pixels.shape), pixels)


@pytest.mark.parametrize(
    "fault",
    [b"1[,2,3]", b"[1,2,]3", b"[1,2 3]", b"[1,,3]", b"[1,2,03]", b"[1,2,3", b"[1,2,+3]", b"[1,2,0x3]", b"[1,2,'3]"],
)
@pytest.mark.parametrize("before", [0, PIECE_BYTES // len(b"[1,2,3],") + 1])
def test_pixels_that_are_not_json_are_refused_in_any_piece(fault: bytes, before: int) -> None:
    with pytest.raises(BadRequest, match=r"not a number|not nested|elements"):
        pixels_from_json("images", items_of(b"[1,2,3]," * before + fault), (before + 1, 3))


@pytest.mark.parametrize("shift", range(8))
def test_brackets_at_the_edge_of_a_piece_count(shift: int) -> None:
    count = 2 * PIECE_BYTES // len(b"[1,2,3],")
    text = b" " * shift + b",".join([b"[1,2,3]"] * count)
    assert pixels_from_json("images", items_of(text), (count, 3)).tolist() == [[1, 2, 3]] * count
    edge = text.rfind(b",", 0, PIECE_BYTES)
    with pytest.raises(BadRequest):
        pixels_from_json("images", items_of(text[:edge] + b"[" + text[edge:]), (count, 3))


def test_a_negative_zero_in_json_is_zero() -> None:
    assert pixels_from_json("images", items_of(b"-0, 1, 2"), (1, 3)).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("size", [0, 23, 25])
def test_binary_pixels_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(BadRequest, match=rf"'images' has {size} bytes .* expected 24 for shape \[2, 2, 2, 3\]"):
        pixels_from_binary("images", memoryview(bytes(size)), SHAPE)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "0 elements in its data, expected 24"),
        ([0] * 23, "23 elements in its data, expected 24"),
        ([0] * 25, "more elements in its data than 24"),
        ([[0] * 12, [0] * 12], r"lists in its data that are not nested like shape [2, 2, 2, 3]"),
        (PIXELS[:1].tolist(), "12 elements in its data, expected 24"),
        ([*PIXELS.tolist(), PIXELS[0].tolist()], "more elements in its data than 24"),
        ([PIXELS[0].tolist(), 7], "not nested like shape"),
        ([PIXELS[0].tolist(), PIXELS[1, :1].tolist()], "not nested like shape"),
        ([*[0] * 23, 256], "holds 256"),
        ([*[0] * 23, -1], "holds -1"),
        ([*[0] * 23, 10**400], "holds 1000"),
        ([*[0] * 23, 1.0], "holds float"),
        ([*[0] * 22, True, None], "holds NoneType, bool"),
        ([*[0] * 23, "7"], "holds str"),
        ([*[0] * 23, [7]], "not nested like shape"),
        ([*[0] * 22, {"a": 7}], "holds dict"),
    ],
)
def test_json_pixels_of_another_form_are_refused(data: list[Any], words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        pixels_from_json("images", items(data), SHAPE)
    assert words in caught.value.detail
    assert "'images'" in caught.value.detail


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=5))
def test_byte_strings_survive_both_forms(elements: list[bytes]) -> None:
    binary = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    assert byte_strings_from_binary("image_bytes", memoryview(binary), len(elements)) == elements
    text = [base64.b64encode(element).decode() for element in elements]
    assert byte_strings_from_json("image_bytes", items(text), len(elements)) == elements


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends after 0 elements, expected 2"),
        (b"\1\0\0\0a\1\0\0", "ends after 1 elements, expected 2"),
        (b"\1\0\0\0a\2\0\0\0b", "element 1 of input 'image_bytes' states 2 bytes, but 1 are left"),
        (b"\xff\xff\xff\xffa", "element 0 of input 'image_bytes' states 4294967295 bytes, but 1 are left"),
        (b"\1\0\0\0a\0\0\0\0xyz", "3 bytes after its last element"),
    ],
)
def test_binary_byte_strings_that_do_not_fill_the_data_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        byte_strings_from_binary("image_bytes", memoryview(data), 2)
    assert words in caught.value.detail


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (["YQ==", "YQ==", "YQ=="], "more elements in its data than 2"),
        (["YQ=="], "1 elements in its data, expected 2"),
        ([], "element 0 of input 'image_bytes' is not a text"),
        (["YQ==", 7], "element 1 of input 'image_bytes' is not a text, expected base64"),
        (["YQ==", None], "element 1 of input 'image_bytes' is not a text, expected base64"),
        (["YQ==", "Y"], "element 1 of input 'image_bytes' is not base64"),
        (["YQ==", "Y\u00e4=="], "element 1 of input 'image_bytes' is not base64"),
        (["YQ==", "YQ==YQ=="], "element 1 of input 'image_bytes' is not base64"),
    ],
)
def test_json_byte_strings_that_are_no_base64_are_refused(data: list[Any], words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        byte_strings_from_json("image_bytes", items(data), 2)
    assert words in caught.value.detail


@settings(deadline=None)
@given(st.binary(max_size=64), st.integers(0, 8))
def test_any_binary_byte_strings_are_read_to_the_last_byte_or_refused(data: bytes, count: int) -> None:
    try:
        elements = byte_strings_from_binary("image_bytes", memoryview(data), count)
    except BadRequest:
        return
    assert b"".join(struct.pack("<I", len(element)) + element for element in elements) == data
    assert len(elements) == count


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=1), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(_JSON, max_size=6))
def test_any_json_data_are_pixels_or_refused(data: list[Any]) -> None:
    try:
        pixels = pixels_from_json("images", items(data), (1, 1, 1, 3))
    except BadRequest:
        return
    assert pixels.shape == (1, 1, 1, 3)
    assert pixels.tolist() == data or pixels.ravel().tolist() == data


@settings(deadline=None)
@given(st.text("[],1 \n-", max_size=12))
def test_text_is_read_as_pixels_only_if_it_is_json(text: str) -> None:
    try:
        pixels = pixels_from_json("images", items_of(text.encode()), (2, 2))
    except BadRequest:
        return
    data = json.loads(f"[{text}]")
    assert pixels.tolist() == data or pixels.ravel().tolist() == data


@pytest.mark.parametrize("order", ["<f4", ">f4"])
@pytest.mark.parametrize("lay_out", [np.ascontiguousarray, np.asfortranarray])
def test_answers_are_little_endian_and_row_by_row(order: str, lay_out: Callable[..., Any]) -> None:
    logits = lay_out(np.array([[1.5, -2.0], [0.1, 3e38]], order))
    assert np.frombuffer(to_binary(logits), "<f4").tolist() == [1.5, -2.0, np.float32(0.1), np.float32(3e38)]
    assert np.array(json.loads(b"[" + to_json(logits) + b"]"), np.float32).tolist() == logits.ravel().tolist()


def test_a_large_answer_is_written_in_pieces() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 150, 200)).astype(np.float32)
    assert to_json(logits) == json.dumps(logits.ravel().tolist(), separators=(",", ":"))[1:-1].encode()


def test_labels_are_bytes_or_integers() -> None:
    labels = np.array([[0, 7], [255, 1]], np.uint8)
    assert to_binary(labels) == b"\0\7\xff\1"
    assert to_json(labels) == b"0,7,255,1"
