"""Reads MindSpore checkpoints without MindSpore.

A ``.ckpt`` file is one protobuf message ``Checkpoint { repeated Value { tag, TensorProto { dims, tensor_type,
tensor_content } } }`` (mindspore/ccsrc/utils/checkpoint.proto). A tensor too large for one message is written as
several values of the same tag, and a checksum may follow the message.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from torch import Tensor

_DTYPES = {
    "BFloat16": torch.bfloat16,
    "Bool": torch.bool,
    "Float16": torch.float16,
    "Float32": torch.float32,
    "Float64": torch.float64,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
}
_SCHEMA = """
name: "ecenet_mindspore_checkpoint.proto" package: "ecenet.mindspore"
message_type {
  name: "TensorProto"
  field { name: "dims" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
  field { name: "tensor_type" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "tensor_content" number: 3 label: LABEL_OPTIONAL type: TYPE_BYTES }
}
message_type {
  name: "Value"
  field { name: "tag" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field {
    name: "tensor" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".ecenet.mindspore.TensorProto"
  }
}
message_type {
  name: "Checkpoint"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".ecenet.mindspore.Value" }
}
"""
_CHECKSUM_MARK = b"crc_num"
_CHECKSUM_BYTES = 17  # the mark and ten digits


def read_mindspore_checkpoint(path: Path) -> dict[str, Tensor]:
    """Parameter names and tensors of a MindSpore checkpoint, as stored.

    Raises:
        ValueError: The file is not such a message, or a tensor has an unknown type or too few bytes.
    """
    content = path.read_bytes()
    if content[-_CHECKSUM_BYTES:].startswith(_CHECKSUM_MARK):
        content = content[:-_CHECKSUM_BYTES]
    message = checkpoint_message()()
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"{path} is not a MindSpore checkpoint: {error}") from error
    parts: dict[str, list[Any]] = {}
    for value in message.value:
        parts.setdefault(value.tag, []).append(value.tensor)
    return {tag: _tensor(tag, slices) for tag, slices in parts.items()}


def _tensor(tag: str, slices: list[Any]) -> Tensor:
    kind, dims = slices[0].tensor_type, tuple(slices[0].dims)
    if kind not in _DTYPES:
        raise ValueError(f"parameter {tag!r} has type {kind!r}, expected one of {', '.join(_DTYPES)}")
    content = bytearray().join(part.tensor_content for part in slices)
    dtype = _DTYPES[kind]
    if len(content) % dtype.itemsize:
        raise ValueError(f"parameter {tag!r} has {len(content)} bytes, no multiple of the {dtype.itemsize} of {kind}")
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    if len(slices) > 1:  # each slice states its own length
        dims = (-1, *dims[1:])
    if dims in {(), (0,)}:
        return flat
    try:
        return flat.reshape(dims)
    except RuntimeError as error:
        raise ValueError(f"parameter {tag!r} has {flat.numel()} values, which do not fill its dims {dims}") from error


@cache
def checkpoint_message() -> Any:
    """The protobuf class of a checkpoint."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ecenet.mindspore.Checkpoint"))
