"""The JSON objects of the protocol, checked strictly; extensions that are not known here are let through."""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import BadRequest
from service.inference_protocol.json_data import cut_data
from service.request.json_bounds import Inner, check_json

Message = TypeVar("Message", bound=BaseModel)

_INT64_MAX = (1 << 63) - 1
# Longer than any honest list of these; a list of millions of faults would become millions of error objects.
_Shape = Annotated[list[Annotated[int, Field(ge=0, le=_INT64_MAX)]], Field(max_length=16)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    def refuse(self, owner: str, *names: str) -> None:
        """Refuse extensions that would change where tensors are stored or what they hold.

        Raises:
            BadRequest: One of ``names`` is among the parameters.
        """
        for name in names:
            if name in (self.model_extra or {}):
                raise BadRequest(f"parameter '{name}' of {owner} belongs to an extension that is not offered here")

    def refuse_all(self, owner: str) -> None:
        """Refuse every parameter that is not known.

        Raises:
            BadRequest: There is one.
        """
        self.refuse(owner, *(self.model_extra or {}))


class RequestParameters(_Parameters):
    """Parameters of a request.

    Attributes:
        binary_data_output: Whether outputs that do not say otherwise are answered as binary data.
        timeout: Microseconds from arrival until the answer is of no use; none or 0 for the service's own limit.
    """

    binary_data_output: bool = False
    timeout: int | None = Field(None, ge=0, le=_INT64_MAX)


class InputParameters(_Parameters):
    """Parameters of an input; ``binary_data_size`` is the size of its binary data in bytes."""

    binary_data_size: int | None = Field(None, ge=0, le=_INT64_MAX)


class OutputParameters(_Parameters):
    """Parameters of an output; ``binary_data`` asks for it as binary data, or not."""

    binary_data: bool | None = None


class RequestInput(_Message):
    """A tensor of the request; its data are here, or after the JSON.

    ``parse_request`` leaves the list empty, and gives its items apart.
    """

    name: str
    shape: _Shape
    datatype: str
    parameters: InputParameters | None = None
    data: list[Any] | None = None


class RequestOutput(_Message):
    """An output that the request asks for."""

    name: str
    parameters: OutputParameters | None = None


class InferenceRequest(_Message):
    """Body of a request, or the part of it before the binary data."""

    id: str | None = None
    parameters: RequestParameters | None = None
    inputs: Annotated[list[RequestInput], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[RequestOutput] | None, Field(max_length=16)] = None


class ResponseOutput(BaseModel):
    """A tensor of the answer; ``data`` are flat, row by row, and absent where they follow as binary data."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferenceResponse(BaseModel):
    """Body of an answer, or the part of it before the binary data."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class ServerLive(BaseModel):
    """Body of the liveness check."""

    live: bool


class ServerReady(BaseModel):
    """Body of the readiness check; the specification calls its member ``live``, KServe ``ready``."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """Body of a model's readiness check."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """Name, version and extensions of the server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output; -1 stands for any number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Name, versions, inputs and outputs of the model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexRequest(_Message):
    """Body of a request for the index; ``ready`` leaves out what does not serve."""

    ready: bool = False


class LoadParameters(_Parameters):
    """Parameters of a load; ``version`` is the one to load, the newest if it is none."""

    version: str | None = None


class LoadRequest(_Message):
    """Body of a load."""

    parameters: LoadParameters = LoadParameters()


class UnloadRequest(_Message):
    """Body of an unload; it has no parameter that matters, as no model depends on another."""


REQUESTS: tuple[type[BaseModel], ...] = (InferenceRequest, IndexRequest, LoadRequest, UnloadRequest)


class ModelIndexEntry(BaseModel):
    """A version of a model; ``reason`` says why it does not serve."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class ErrorBody(BaseModel):
    """Body of every error of the protocol."""

    error: str = Field(examples=["input 'images' has shape [1, 480, 640, 3], expected [-1, 576, 768, 3]"])


def parse_request(data: bytes) -> tuple[InferenceRequest, Inner | None]:
    """Read the JSON of a request: the request, whose list of data is empty, and its items; None if it has no list.

    Raises:
        BadRequest: No JSON, a member that is missing, of another type or out of range.
        PayloadTooLarge: More beside the data than ``check_json`` accepts.
    """
    rest, items = cut_data(data)
    return _validated(InferenceRequest, rest), items


def parse_message(kind: type[Message], data: bytes) -> Message:
    """Read the JSON of a small request; an empty body is one without members.

    Raises:
        BadRequest: No JSON, or a member of another type.
        PayloadTooLarge: More than such a message has.
    """
    check_json(data, "the message")
    return _validated(kind, data.strip() or b"{}")


def _validated(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if not where:
        raise BadRequest(f"the body is not valid JSON for the {_name_of(kind)}: {first['msg']}")
    if first["type"] == "missing":
        raise BadRequest(f"the request lacks {where}, which the protocol requires")
    raise BadRequest(f"{where} is {reprlib.repr(first['input'])}: {first['msg'][:1].lower()}{first['msg'][1:]}")


def _name_of(kind: type[BaseModel]) -> str:
    """``InferenceRequest`` in words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
