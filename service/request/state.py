"""State of one request, shared by the middleware around it and its route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from starlette.types import Scope

from service.inference.stopwatch import Stopwatch

_KEY = "request"


class TracedImage(NamedTuple):
    """One image of a request of many: its place in the form, status, stages, and end by ``time.perf_counter``."""

    place: int
    status: int
    stopwatch: Stopwatch
    ended: float


@dataclass(slots=True)
class RequestState:
    """Facts about one request.

    Attributes:
        request_id: Id in logs, answers and traces.
        arrived: Arrival, on the event loop's clock.
        api_key: Name of the API key's owner; None without authentication.
        model: Name of the model that the request goes to; None until it is known.
        answer_format: Format of the answer; None until it is known.
        stopwatch: Times of the stages; None until the request is admitted.
        traced_images: Images of a request of many that are done; None where traces are off.
    """

    request_id: str
    arrived: float
    api_key: str | None = None
    model: str | None = None
    answer_format: str | None = None
    stopwatch: Stopwatch | None = None
    traced_images: list[TracedImage] | None = None


def attach_state(scope: Scope, state: RequestState) -> None:
    """Make ``state`` the state of the request with this ASGI scope."""
    scope.setdefault("state", {})[_KEY] = state


def state_of(scope: Scope) -> RequestState:
    """Give the state of the request with this ASGI scope, attached by ``RequestContext``."""
    state: RequestState = scope["state"][_KEY]
    return state
