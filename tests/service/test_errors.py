"""The tree of errors: what clients and their libraries rely on."""

from __future__ import annotations

import pytest

from service import errors
from service.errors import Draining, NotAnImage, Overloaded, PayloadTooLarge, ServiceError

STATUSES = {
    "bad-request": 400,
    "not-an-image": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "rate-limited": 429,
    "unknown-model": 404,
    "not-acceptable": 406,
    "payload-too-large": 413,
    "unsupported-media-type": 415,
    "unsupported-image": 415,
    "invalid-parameter": 422,
    "client-gone": 499,
    "internal-error": 500,
    "engine-failure": 500,
    "load-failure": 500,
    "unavailable": 503,
    "overloaded": 503,
    "overloaded-pixels": 503,
    "engine-down": 503,
    "draining": 503,
    "not-ready": 503,
    "deadline-exceeded": 504,
}
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]


def test_every_slug_has_its_status() -> None:
    assert {kind.slug: kind.status for kind in KINDS} == STATUSES
    assert len(KINDS) == len(STATUSES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_title_and_a_reason(kind: type[ServiceError]) -> None:
    error = kind("33 bytes, at most 32")
    assert str(error) == error.detail == "33 bytes, at most 32"
    assert kind.title
    assert len({other.title for other in KINDS}) == len(KINDS)
    assert kind.__doc__


def test_problem_holds_the_members_of_the_standard_and_the_extra_ones() -> None:
    error = PayloadTooLarge("33 bytes, at most 32", extra={"value": 33, "limit": 32, "status": 200})
    assert error.problem() == {
        "type": "payload-too-large",
        "title": "Payload too large",
        "status": 413,
        "detail": "33 bytes, at most 32",
        "value": 33,
        "limit": 32,
    }


def test_headers_and_extra_are_not_shared_between_errors() -> None:
    headers, extra = {"X-A": "1"}, {"value": 1}
    error = NotAnImage("no", headers=headers, extra=extra)
    headers["X-A"], extra["value"] = "2", 2
    assert (error.headers, error.extra) == ({"X-A": "1"}, {"value": 1})
    assert (NotAnImage("no").headers, NotAnImage("no").extra) == ({}, {})


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3")])
def test_retry_after_is_in_whole_seconds_of_one_or_more(retry_after_s: float, header: str) -> None:
    assert Overloaded("full", retry_after_s=retry_after_s).headers == {"Retry-After": header}


def test_retry_after_is_sent_when_overloaded_and_on_demand_when_draining() -> None:
    assert Overloaded("full").headers == {"Retry-After": "1"}
    assert Draining("stopping").headers == {}
    assert Draining("stopping", retry_after_s=5).headers == {"Retry-After": "5"}


def test_an_image_error_is_also_the_error_of_its_status() -> None:
    with pytest.raises(errors.BadRequest):
        raise NotAnImage("no image")
    with pytest.raises(errors.UnsupportedMedia):
        raise errors.UnsupportedImage("AVIF")
