"""A request's body to images and wanted outputs, checked against what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import BadRequest, PayloadTooLarge
from service.inference_protocol import messages
from service.inference_protocol.body import split_body
from service.inference_protocol.messages import InferenceRequest, RequestInput, parse_request
from service.inference_protocol.signature import IMAGES, LABELS, Signature, TensorInfo
from service.inference_protocol.tensors import (
    byte_strings_from_binary,
    byte_strings_from_json,
    pixels_from_binary,
    pixels_from_json,
)
from service.request.json_bounds import Inner

# An image at the model's size, (h, w, 3) uint8 RGB, or an image file.
Image = NDArray[np.uint8] | bytes


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output to answer with, and whether as binary data."""

    info: TensorInfo
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """The parsed request.

    Attributes:
        id: The client's name for the request, given back to it; None if it has none.
        images: The images, one or more, in the order of their rows.
        outputs: The outputs in the order asked for.
        timeout_s: Seconds that the client gives it; None for the service's own limit.
    """

    id: str | None
    images: Sequence[Image]
    outputs: tuple[WantedOutput, ...]
    timeout_s: float | None


def read_inference(body: bytes, header_length: str | None, signature: Signature, max_images: int) -> Inference:
    """Read a decompressed body.

    Args:
        body: JSON, and behind it the binary data.
        header_length: The header ``Inference-Header-Content-Length``; None if it was not sent.
        signature: What the model takes and gives.
        max_images: Images in one request.

    Raises:
        BadRequest: Another form, name, shape, type or size than expected; the text names both.
        PayloadTooLarge: More images.
    """
    text, binary = split_body(body, header_length)
    request, items = parse_request(text)
    parameters = request.parameters or messages.RequestParameters(timeout=None)
    return Inference(
        id=request.id,
        images=_images(request.inputs, items, binary, signature, max_images),
        outputs=_outputs(request, signature, default=parameters.binary_data_output),
        timeout_s=parameters.timeout / 1e6 if parameters.timeout else None,
    )


def _images(
    inputs: list[RequestInput], items: Inner | None, binary: memoryview, signature: Signature, max_images: int
) -> Sequence[Image]:
    known = {info.name: info for info in signature.inputs}
    for tensor in inputs:
        if tensor.name not in known:
            raise BadRequest(f"input {_quote(tensor.name)} is unknown, expected one of {', '.join(known)}")
    if len(inputs) > 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise BadRequest(f"the request has {len(inputs)} inputs ({names}), expected one of {', '.join(known)}")
    _check_kind(inputs[0], known[inputs[0].name], max_images)
    return _tensor(inputs[0], _data(inputs[0], items, binary))


def _tensor(tensor: RequestInput, data: Inner | memoryview) -> Sequence[Image]:
    if tensor.name == IMAGES:
        pixels = (
            pixels_from_json(IMAGES, data, tensor.shape)
            if isinstance(data, Inner)
            else pixels_from_binary(IMAGES, data, tensor.shape)
        )
        return list(pixels)
    if isinstance(data, Inner):
        return byte_strings_from_json(tensor.name, data, tensor.shape[0])
    return byte_strings_from_binary(tensor.name, data, tensor.shape[0])


def _check_kind(tensor: RequestInput, expected: TensorInfo, max_images: int) -> None:
    if tensor.datatype != expected.datatype:
        raise BadRequest(
            f"input '{tensor.name}' has datatype {_quote(tensor.datatype)}, expected '{expected.datatype}'"
        )
    if len(tensor.shape) != len(expected.shape) or tensor.shape[1:] != list(expected.shape[1:]):
        raise BadRequest(f"input '{tensor.name}' has shape {tensor.shape}, expected {list(expected.shape)}")
    if tensor.shape[0] == 0:
        raise BadRequest(f"input '{tensor.name}' has shape {tensor.shape}, expected one image or more")
    if tensor.shape[0] > max_images:
        detail = f"input '{tensor.name}' holds {tensor.shape[0]} images, at most {max_images} are accepted at once"
        raise PayloadTooLarge(detail, extra={"value": tensor.shape[0], "limit": max_images, "unit": "images"})


def _data(tensor: RequestInput, items: Inner | None, binary: memoryview) -> Inner | memoryview:
    """The tensor's data in JSON, or all binary data, which must be as many as it states."""
    parameters = tensor.parameters or messages.InputParameters(binary_data_size=None)
    parameters.refuse(f"input '{tensor.name}'", "shared_memory_region")
    size = parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        found = "neither" if size is None else "both"
        raise BadRequest(f"input '{tensor.name}' has {found} of data and parameter binary_data_size, expected one")
    if len(binary) != (size or 0):
        raise BadRequest(
            f"the body has {len(binary)} bytes after the JSON, expected {size or 0} for input '{tensor.name}'"
        )
    if tensor.data is None:
        return binary
    if items is None or tensor.data:
        raise BadRequest(f"input '{tensor.name}' has a member 'data' that is written with escapes, or there are two")
    return items


def _outputs(request: InferenceRequest, signature: Signature, *, default: bool) -> tuple[WantedOutput, ...]:
    if not request.outputs:
        return (WantedOutput(signature.output(LABELS), default),)
    names = [output.name for output in request.outputs]
    known = {info.name: info for info in signature.outputs}
    wanted = []
    for output in request.outputs:
        if output.name not in known:
            raise BadRequest(f"output {_quote(output.name)} is unknown, expected some of {', '.join(known)}")
        if names.count(output.name) > 1:
            raise BadRequest(f"output '{output.name}' is requested {names.count(output.name)} times, expected once")
        parameters = output.parameters or messages.OutputParameters()
        parameters.refuse(f"output '{output.name}'", "shared_memory_region", "classification")
        is_binary = default if parameters.binary_data is None else parameters.binary_data
        wanted.append(WantedOutput(known[output.name], is_binary))
    return tuple(wanted)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
