"""Answers: the JSON object, data in it or behind it, rows in the order of the images."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.inference_protocol.answer import assemble, encode_row
from service.inference_protocol.inference_request import WantedOutput
from service.inference_protocol.signature import TensorInfo

LABELS = TensorInfo("labels", "UINT8", (-1, 1, 2))
LOGITS = TensorInfo("logits", "FP32", (-1, 3, 1, 1))
ROWS: list[dict[str, NDArray[Any]]] = [
    {
        "labels": np.array([[index, 9]], np.uint8),
        "logits": np.array([[[0.5]], [[index]], [[-1]]], np.float32),
    }
    for index in (1, 2)
]


def test_data_in_json_are_flat_rows_in_order() -> None:
    outputs = [WantedOutput(LOGITS, is_binary=False), WantedOutput(LABELS, is_binary=False)]
    answer = assemble("street", "1.0", None, outputs, [encode_row(row, outputs) for row in ROWS])
    assert answer.header_length is None
    assert json.loads(answer.body) == {
        "model_name": "street",
        "model_version": "1.0",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [2, 3, 1, 1], "data": [0.5, 1, -1, 0.5, 2, -1]},
            {"name": "labels", "datatype": "UINT8", "shape": [2, 1, 2], "data": [1, 9, 2, 9]},
        ],
    }


def test_binary_data_follow_the_json_in_the_order_of_the_outputs() -> None:
    outputs = [WantedOutput(LABELS, is_binary=True), WantedOutput(LOGITS, is_binary=True)]
    answer = assemble("street", "1.0", 'a"\u00e4', outputs, [encode_row(row, outputs) for row in ROWS])
    head = json.loads(answer.body[: answer.header_length])
    assert head["id"] == 'a"\u00e4'
    assert [output["parameters"] for output in head["outputs"]] == [{"binary_data_size": 4}, {"binary_data_size": 24}]
    assert not any("data" in output for output in head["outputs"])
    binary = answer.body[answer.header_length :]
    assert binary[:4] == b"\1\x09\2\x09"
    assert np.frombuffer(binary[4:], "<f4").tolist() == [0.5, 1, -1, 0.5, 2, -1]


def test_both_forms_go_into_one_answer() -> None:
    outputs = [WantedOutput(LOGITS, is_binary=True), WantedOutput(LABELS, is_binary=False)]
    answer = assemble("street", "1.0", "7", outputs, [encode_row(row, outputs) for row in ROWS])
    logits, labels = json.loads(answer.body[: answer.header_length])["outputs"]
    assert (logits["parameters"], labels["data"]) == ({"binary_data_size": 24}, [1, 9, 2, 9])
    assert len(answer.body[answer.header_length :]) == 24
