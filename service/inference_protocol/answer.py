"""The body of an answer: the JSON object, with the data in it or as binary data behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from service.inference_protocol.inference_request import WantedOutput
from service.inference_protocol.tensors import to_binary, to_json

# The rows of one image by output: in the order of the outputs, each encoded as its output wants it.
EncodedRow = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """A body; ``header_length`` is the length of its JSON in bytes if binary data follow, and None otherwise."""

    body: bytes
    header_length: int | None


def encode_row(row: Mapping[str, NDArray[Any]], outputs: Sequence[WantedOutput]) -> EncodedRow:
    """Encode what ``row`` has for one image under the names of ``outputs``."""
    return [(to_binary if output.is_binary else to_json)(row[output.info.name]) for output in outputs]


def assemble(
    name: str, version: str, request_id: str | None, outputs: Sequence[WantedOutput], rows: Sequence[EncodedRow]
) -> EncodedResponse:
    """Join encoded rows, one or more, to the answer of a request to the model ``name`` in ``version``."""
    columns = list(zip(*rows, strict=True))
    tensors = b",".join(_tensor(output, column) for output, column in zip(outputs, columns, strict=True))
    head = {"model_name": name, "model_version": version}
    if request_id is not None:
        head["id"] = request_id
    text = json.dumps(head).encode()[:-1] + b',"outputs":[' + tensors + b"]}"
    binary = [chunk for output, column in zip(outputs, columns, strict=True) if output.is_binary for chunk in column]
    return EncodedResponse(b"".join((text, *binary)), len(text) if binary else None)


def _tensor(output: WantedOutput, column: Sequence[bytes]) -> bytes:
    """The JSON of one output. Data are spliced in as text: parsed numbers of a batch would fill the memory."""
    head = {"name": output.info.name, "datatype": output.info.datatype, "shape": [len(column), *output.info.shape[1:]]}
    if output.is_binary:
        return json.dumps({**head, "parameters": {"binary_data_size": sum(map(len, column))}}).encode()
    return json.dumps(head).encode()[:-1] + b',"data":[' + b",".join(column) + b"]}"
