"""An allocation that fails is told as 503; a corrupt file stays the client's fault."""

from __future__ import annotations

import resource
import subprocess
import sys

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


_WITHOUT_ROOM = """
import io, resource
from PIL import Image
from service.errors import ServiceError
from service.imaging.codec import decode
from service.lack_of_memory import report_lack_of_memory

def picture(side):
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).save(file, "WEBP")
    return file.getvalue()

def status_of(data):
    try:
        with report_lack_of_memory():
            decode(data, max_image_bytes=1 << 30, max_image_pixels=1 << 30)
    except ServiceError as error:
        return error.status
    return 200

small, large = picture(32), picture(4000)
print(status_of(small), status_of(small[:-9]))
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
print(status_of(large))
"""


def test_a_decoder_without_memory_is_told_from_a_corrupt_file() -> None:
    run = subprocess.run([sys.executable, "-c", _WITHOUT_ROOM], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["200", "400", "503"]


def test_what_succeeds_is_left_alone() -> None:
    with report_lack_of_memory():
        done = True
    assert done
