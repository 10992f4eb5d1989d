"""Requests as clients may write them, right and wrong, against a model of 2x3 pixels."""

from __future__ import annotations

import copy
import json
import time
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import BadRequest, PayloadTooLarge
from service.inference_protocol.inference_request import Inference, read_inference
from service.inference_protocol.messages import InferenceRequest
from service.inference_protocol.signature import signature_of
from service.model_directory.manifest import GraphInfo
from tests.support.hostile import INFERENCE_JSON

SIGNATURE = signature_of(GraphInfo("model.onnx", "0" * 64, (2, 3)), 4)
LABELS_ONLY = signature_of(GraphInfo("model.onnx", "0" * 64, (2, 3), output="labels", output_stride=1), 4)
PIXELS = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3)


def request(**members: Any) -> dict[str, Any]:
    """Two images in binary form, with members of the input in place of the usual."""
    tensor = {"name": "images", "shape": [2, 2, 3, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 36}}
    return {"inputs": [{**tensor, **members}]}


def read(message: object, binary: bytes = b"", max_images: int = 4, **options: Any) -> Inference:
    text = json.dumps(message).encode()
    return read_inference(text + binary, str(len(text)), options.get("signature", SIGNATURE), max_images)


def refusal(message: object, binary: bytes = PIXELS.tobytes(), **options: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        read(message, binary, **options)
    return caught.value.detail


def test_signature_tells_inputs_and_outputs() -> None:
    assert [(info.name, info.datatype, info.shape) for info in (*SIGNATURE.inputs, *SIGNATURE.outputs)] == [
        ("images", "UINT8", (-1, 2, 3, 3)),
        ("image_bytes", "BYTES", (-1,)),
        ("labels", "UINT8", (-1, 2, 3)),
        ("logits", "FP32", (-1, 4, 1, 1)),
    ]
    assert [info.name for info in LABELS_ONLY.outputs] == ["labels"]


def test_images_keep_their_order_and_labels_in_json_are_the_default() -> None:
    inference = read(request(), PIXELS.tobytes())
    assert [image.tolist() for image in inference.images] == PIXELS.tolist()  # type: ignore[union-attr]
    assert [(wanted.info.name, wanted.is_binary) for wanted in inference.outputs] == [("labels", False)]
    assert (inference.id, inference.timeout_s) == (None, None)


def test_json_without_the_header_is_the_whole_body() -> None:
    message = request(data=PIXELS.tolist(), parameters=None)
    inference = read_inference(json.dumps(message).encode(), None, SIGNATURE, 4)
    assert np.array_equal(np.stack(inference.images), PIXELS)


def test_files_come_in_both_forms() -> None:
    tensor = {"name": "image_bytes", "shape": [2], "datatype": "BYTES"}
    binary = read({"inputs": [{**tensor, "parameters": {"binary_data_size": 11}}]}, b"\1\0\0\0a\2\0\0\0bc")
    text = read({"inputs": [{**tensor, "data": ["YQ==", "YmM="]}]})
    assert binary.images == text.images == [b"a", b"bc"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({}, [True, False, False]), ({"binary_data_output": True}, [True, False, True])],
)
def test_outputs_say_how_they_are_answered_or_the_request_does(
    parameters: dict[str, Any], expected: list[bool]
) -> None:
    forms: list[dict[str, Any]] = [{"parameters": {"binary_data": True}}, {"parameters": {"binary_data": False}}, {}]
    for form, is_binary in zip(forms, expected, strict=True):
        message = {**request(), "parameters": parameters, "outputs": [{"name": "logits", **form}]}
        assert [(w.info.name, w.is_binary) for w in read(message, PIXELS.tobytes()).outputs] == [("logits", is_binary)]


def test_id_timeout_and_foreign_parameters_are_taken() -> None:
    message = {**request(), "id": "7", "parameters": {"timeout": 1_500_000, "priority": 3, "trace": "x"}}
    inference = read(message, PIXELS.tobytes())
    assert (inference.id, inference.timeout_s) == ("7", 1.5)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"name": "x"}, "input 'x' is unknown, expected one of images, image_bytes"),
        ({"datatype": "FP32"}, "'images' has datatype 'FP32', expected 'UINT8'"),
        ({"shape": [2, 3, 2, 3]}, "shape [2, 3, 2, 3], expected [-1, 2, 3, 3]"),
        ({"shape": [2, 3, 3]}, "shape [2, 3, 3], expected [-1, 2, 3, 3]"),
        ({"shape": []}, "shape [], expected [-1, 2, 3, 3]"),
        ({"shape": [0, 2, 3, 3]}, "expected one image or more"),
        ({"shape": [3, 2, 3, 3]}, "36 bytes of binary data, expected 54 for shape [3, 2, 3, 3]"),
        ({"shape": [-1, 2, 3, 3]}, "inputs.0.shape.0 is -1: input should be greater than or equal to 0"),
        ({"shape": [1 << 63]}, "inputs.0.shape.0 is 9223372036854775808: input should be less"),
        ({"shape": [10**30]}, "inputs.0.shape.0 is 1000000000"),
        ({"shape": [2.0, 2, 3, 3]}, "inputs.0.shape.0 is 2.0: input should be a valid integer"),
        ({"shape": [True, 2, 3, 3]}, "inputs.0.shape.0 is True: input should be a valid integer"),
        ({"shape": "2"}, "inputs.0.shape is '2'"),
        ({"shape": [1] * 17}, "inputs.0.shape is [1, 1, "),
        ({"parameters": None}, "neither of data and parameter binary_data_size"),
        ({"data": [1]}, "both of data and parameter binary_data_size"),
        ({"parameters": {"binary_data_size": 35}}, "36 bytes after the JSON, expected 35"),
        ({"parameters": {"binary_data_size": 37}}, "36 bytes after the JSON, expected 37"),
        ({"parameters": {"binary_data_size": "36"}}, "binary_data_size is '36': input should be a valid integer"),
        ({"parameters": {"binary_data_size": -1}}, "binary_data_size is -1: input should be greater"),
        ({"parameters": {"binary_data_size": True}}, "binary_data_size is True"),
        ({"parameters": [1]}, "inputs.0.parameters is [1]"),
        ({"parameters": {"shared_memory_region": "a"}}, "'shared_memory_region' of input 'images' belongs to"),
        ({"data": [0] * 36, "parameters": None}, "36 bytes after the JSON, expected 0"),
        ({"data": {}, "parameters": None}, "inputs.0.data is {}"),
        ({"data": 7, "parameters": None}, "inputs.0.data is 7"),
    ],
)
def test_wrong_inputs_are_refused_with_what_was_expected(members: dict[str, Any], words: str) -> None:
    assert words in refusal(request(**members))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"inputs": []}, "inputs is []: list should have at least 1 item"),
        ({"inputs": None}, "inputs is None"),
        ({"inputs": [7]}, "inputs.0 is 7"),
        ({"inputs": request()["inputs"] * 2}, "2 inputs (images, images), expected one of images, image_bytes"),
        ({"inputs": [{"name": "images", "shape": []}]}, "the request lacks inputs.0.datatype"),
        ({"id": 7}, "id is 7: input should be a valid string"),
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output is 1"),
        ({"parameters": {"timeout": -1}}, "parameters.timeout is -1"),
        ({"outputs": [{"name": "y"}]}, "output 'y' is unknown, expected some of labels, logits"),
        ({"outputs": [{"name": "labels"}] * 2}, "'labels' is requested 2 times"),
        ({"outputs": [{"name": "labels", "parameters": {"binary_data": "yes"}}]}, "binary_data is 'yes'"),
        ({"outputs": [{"name": "labels", "parameters": {"classification": 2}}]}, "'classification' of output 'labels'"),
        ({"outputs": {}}, "outputs is {}"),
    ],
)
def test_wrong_requests_are_refused_with_what_was_expected(members: dict[str, Any], words: str) -> None:
    assert words in refusal({**request(), **members})


def test_logits_of_a_graph_that_gives_labels_are_unknown() -> None:
    message = {**request(), "outputs": [{"name": "logits"}]}
    assert refusal(message, signature=LABELS_ONLY) == "output 'logits' is unknown, expected some of labels"


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff", b'{"id": "\\ud800"}', b"[" * 60_000, b"NaN"])
def test_text_that_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid JSON for the inference request"):
        read_inference(text, None, SIGNATURE, 4)


def test_more_images_than_places_are_too_many_whatever_their_size() -> None:
    for count in (5, (1 << 63) - 1):
        with pytest.raises(PayloadTooLarge, match=f"holds {count} images, at most 4 are accepted at once"):
            read(request(shape=[count, 2, 3, 3]))


@pytest.mark.parametrize("text", [b" " * 70_000, b"[" * 70_000, json.dumps({"id": "a" * 70_000}).encode()])
def test_json_beside_the_data_is_bounded(text: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match=f"{len(text)} bytes beside the list 'data', at most 65536 are accepted"):
        read_inference(text, None, SIGNATURE, 4)


def test_members_are_counted_before_parsing() -> None:
    with pytest.raises(BadRequest, match="1001 colons, at most 1000"):
        read_inference(b":" * 1001, None, SIGNATURE, 4)


def test_json_of_many_pixels_is_accepted() -> None:
    height, width = 500, 600
    large = signature_of(GraphInfo("model.onnx", "0" * 64, (height, width)), 4)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    message = request(data=images.tolist(), parameters=None, shape=[2, height, width, 3])
    assert np.array_equal(np.stack(read(message, signature=large).images), images)


@pytest.mark.parametrize("extra", [{}, {"outputs": [{"name": "labels"}], "id": "]}"}, {"parameters": {"x": [1]}}])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_data_are_found_wherever_they_stand(extra: dict[str, Any], is_first: bool, indent: int | None) -> None:
    texts = {"name": "image_bytes", "shape": [2], "datatype": "BYTES", "data": ["YQ==", "YmM="]}
    numbers = {"name": "images", "shape": [2, 2, 3, 3], "datatype": "UINT8", "data": PIXELS.tolist()}
    for tensor, expected in ((texts, [b"a", b"bc"]), (numbers, PIXELS.tolist())):
        members = dict(reversed(tensor.items())) if is_first else tensor
        message = {**extra, "inputs": [members]} if is_first else {"inputs": [members], **extra}
        images = read_inference(json.dumps(message, indent=indent).encode(), None, SIGNATURE, 4).images
        assert [image if isinstance(image, bytes) else image.tolist() for image in images] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"data": [1, 2], "data": [1]', "two lists with the name 'data'"),
        ('"data": [1], "d\\u0061ta": [1]', "written with escapes, or there are two"),
        ('"d\\u0061ta": [1]', "written with escapes, or there are two"),
        ('"data": [1, {"a": 2}]', "holds other values than numbers alone"),
        ('"data": [1, "a"]', "holds other values than numbers alone"),
        ('"data": ["a", 1]', "'images' holds str"),
        ('"data": [1, [2]', "not a number|not valid JSON|nested|elements"),
        ('"data": [1] 2', "not valid JSON"),
        ('"parameters": {"data": [1]}', "neither of data and parameter"),
    ],
)
def test_other_lists_of_data_are_refused(text: str, words: str) -> None:
    head = '{"inputs": [{"name": "images", "shape": [1, 2, 3, 3], "datatype": "UINT8", '
    with pytest.raises(BadRequest, match=words):
        read_inference(f"{head}{text}}}]}}".encode(), None, SIGNATURE, 4)


@pytest.mark.parametrize("data", [b'["a', b"[1, 2", b"[", b'[{"a": 1'])
def test_a_list_of_data_that_does_not_end_is_told(data: bytes) -> None:
    with pytest.raises(BadRequest, match="the list 'data' does not end"):
        read_inference(b'{"inputs": [{"data": ' + data, None, SIGNATURE, 4)


def test_a_quote_within_a_text_does_not_begin_the_data() -> None:
    message = {"id": 'x"data":[1', **request(data=PIXELS.tolist(), parameters=None)}
    assert np.array_equal(np.stack(read(message).images), PIXELS)


@pytest.mark.parametrize("name", INFERENCE_JSON)
def test_hostile_json_is_refused_and_costs_little(name: str) -> None:
    text = INFERENCE_JSON[name]()
    camvid = signature_of(GraphInfo("model.onnx", "0" * 64, (576, 768)), 11)
    began = time.thread_time()
    with pytest.raises((BadRequest, PayloadTooLarge)):
        read_inference(text, None, camvid, 64)
    # Measured: 140 ms at most, in pieces of 13 ms.
    assert time.thread_time() - began < 0.6


@pytest.mark.parametrize("member", ["inputs", "outputs", "shape"])
def test_a_thousand_faults_do_not_become_a_thousand_errors(member: str) -> None:
    faults = [None] * 1000
    message = request(shape=faults) if member == "shape" else {**request(), member: faults}
    with pytest.raises(ValidationError) as caught:
        InferenceRequest.model_validate_json(json.dumps(message))
    assert caught.value.error_count() == 1


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 65), 1 << 65)
    | st.floats()
    | st.sampled_from(["images", "image_bytes", "labels", "UINT8", "BYTES"])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
_PATHS = st.sampled_from(
    [
        ("id",),
        ("parameters",),
        ("parameters", "timeout"),
        ("inputs",),
        ("inputs", 0),
        ("inputs", 0, "name"),
        ("inputs", 0, "shape"),
        ("inputs", 0, "shape", 0),
        ("inputs", 0, "datatype"),
        ("inputs", 0, "parameters"),
        ("inputs", 0, "parameters", "binary_data_size"),
        ("inputs", 0, "data"),
        ("outputs",),
        ("outputs", 0),
        ("outputs", 0, "name"),
        ("outputs", 0, "parameters", "binary_data"),
    ]
)


@settings(deadline=None)
@given(st.lists(st.tuples(_PATHS, _VALUES), max_size=2), st.binary(max_size=4), st.text(max_size=3) | st.none())
def test_no_change_of_a_good_request_ends_in_anything_but_an_inference_or_a_refusal(
    changes: list[tuple[tuple[Any, ...], Any]], more: bytes, header: str | None
) -> None:
    message = {
        **request(),
        "parameters": {},
        "outputs": [{"name": "labels", "parameters": {"binary_data": True}}],
    }
    for path, value in changes:
        put(message, path, value)
    text = json.dumps(message).encode()
    length = str(len(text)) if header is None else header
    try:
        inference = read_inference(text + PIXELS.tobytes() + more, length, SIGNATURE, 4)
    except (BadRequest, PayloadTooLarge):
        return
    assert 1 <= len(inference.images) <= 4


def put(message: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set a member, unless an earlier change has removed what holds it."""
    with suppress(KeyError, IndexError, TypeError):
        for step in path[:-1]:
            message = message[step]
        message[path[-1]] = copy.deepcopy(value)
