"""An allocation that fails is told as 503; a corrupt file stays the client's fault."""

from __future__ import annotations

import resource

import pytest

from service.errors import NotAnImage, Overloaded
from service.lack_of_memory import report_lack_of_memory

NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def set_limit(monkeypatch: pytest.MonkeyPatch, limit: tuple[int, int]) -> None:
    monkeypatch.setattr(resource, "getrlimit", {resource.RLIMIT_AS: limit}.__getitem__)


def corrupt(cause: Exception) -> NotAnImage:
    error = NotAnImage("the PNG image is truncated or corrupt")
    error.__cause__ = cause
    return error


def test_a_failed_allocation_is_an_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limit(monkeypatch, NO_LIMIT)
    with pytest.raises(Overloaded, match="not enough free memory") as caught, report_lack_of_memory():
        raise MemoryError
    assert caught.value.headers == {"Retry-After": "1"}


def test_a_failed_allocation_of_a_decoder_is_one_where_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limit(monkeypatch, (1 << 30, 1 << 30))
    with pytest.raises(Overloaded), report_lack_of_memory():
        raise corrupt(MemoryError())


@pytest.mark.parametrize(
    ("limit", "cause"), [(NO_LIMIT, MemoryError()), ((1 << 30, 1 << 30), OSError("broken data stream"))]
)
def test_a_corrupt_file_stays_one(limit: tuple[int, int], cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limit(monkeypatch, limit)
    error = corrupt(cause)
    with pytest.raises(NotAnImage) as caught, report_lack_of_memory():
        raise error
    assert caught.value is error


def test_what_succeeds_is_left_alone() -> None:
    with report_lack_of_memory():
        done = True
    assert done
