"""Parameters of routes: the runtime, the pipeline of a model, the time limit."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from service.errors import InvalidParameter
from service.inference.admission import TimeLimit
from service.inference.pipeline import Pipeline
from service.request.state import state_of
from service.runtime import Runtime

TIMEOUT_HEADER = "X-Request-Timeout-Ms"

_TimeoutMs = Annotated[
    int | None,
    Header(
        alias=TIMEOUT_HEADER,
        gt=0,
        description="Milliseconds from the request's arrival to its answer. After them the request gets 504, and work "
        "that has not started is dropped. Default: `request_timeout_s`; maximum: `max_request_timeout_s`.",
    ),
]


async def runtime_of(request: Request) -> Runtime:
    """The runtime that ``create_app`` made; a coroutine, because FastAPI calls plain functions in a thread."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeOf = Annotated[Runtime, Depends(runtime_of)]


async def time_limit(request: Request, runtime: RuntimeOf, timeout_ms: _TimeoutMs = None) -> TimeLimit:
    """The time limit of a request, counted from its arrival; ``TimeLimitOf`` as a parameter of a route.

    Raises:
        InvalidParameter: The header asks for more time than ``max_request_timeout_s``.
    """
    settings = runtime.settings
    arrived = state_of(request.scope).arrived
    if timeout_ms is None:
        return TimeLimit(settings.request_timeout_s, arrived)
    limit_ms = round((settings.max_request_timeout_s or settings.request_timeout_s) * 1000)
    if timeout_ms > limit_ms:
        raise InvalidParameter(
            f"{TIMEOUT_HEADER} is {timeout_ms}: the maximum is {limit_ms}; ask for less or omit the header",
            extra={"parameter": TIMEOUT_HEADER, "value": timeout_ms, "limit": limit_ms, "unit": "milliseconds"},
        )
    return TimeLimit(timeout_ms / 1000, arrived, TIMEOUT_HEADER)


TimeLimitOf = Annotated[TimeLimit, Depends(time_limit)]


def pipeline_for(request: Request, model: str | None = None, version: str | None = None) -> Pipeline:
    """The pipeline of a model. The metrics count the request to this model even if the model refuses it.

    Nothing may be awaited between this call and ``Pipeline.admit``, see ``Runtime.pipeline``.

    Raises:
        UnknownModel, NotReady, EngineDown: See ``Repository.serving``.
    """
    runtime: Runtime = request.app.state.runtime
    state_of(request.scope).model = name = runtime.models.resolve(model)
    return runtime.pipeline(name, version)
