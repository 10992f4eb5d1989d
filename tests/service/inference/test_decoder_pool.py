"""Decoding in processes: the same pixels, and an end by the kernel of what takes too much."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import NotAnImage, Overloaded, PayloadTooLarge
from service.imaging.codec import decode
from service.imaging.decode_process import Job
from service.inference.decoder_pool import DecoderPool
from service.logs import request_lines

LIMITS = {"max_image_bytes": 1 << 24, "max_image_pixels": 1 << 28}
JOB = Job(**LIMITS, background=(255, 0, 0), cpu_s=30.0, memory_bytes=1 << 31)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(1)
    yield pool
    pool.close()


def picture(mode: str = "RGBA", size: tuple[int, int] = (37, 21)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise, mode).save(file, "WEBP", lossless=True)
    return file.getvalue()


def blank(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def test_pixels_are_those_of_a_thread(pool: DecoderPool) -> None:
    data = picture()
    expected = decode(data, **LIMITS, background=JOB.background).pixels
    for _ in range(2):
        np.testing.assert_array_equal(pool.decode(data, JOB, wait_s=60), expected)


def test_errors_come_back_as_they_are(pool: DecoderPool) -> None:
    with pytest.raises(NotAnImage, match="truncated"):
        pool.decode(picture()[:-40], JOB, wait_s=60)
    small = replace(JOB, max_image_pixels=10)
    with pytest.raises(PayloadTooLarge) as error:
        pool.decode(picture(), small, wait_s=60)
    assert error.value.extra == {"value": 37 * 21, "limit": 10, "unit": "pixels"}


def test_an_image_that_wants_more_memory_fails_alone(pool: DecoderPool) -> None:
    with pytest.raises(PayloadTooLarge, match="more than 16777216 bytes of memory"):
        pool.decode(blank(6000, 6000), replace(JOB, memory_bytes=1 << 24), wait_s=60)
    assert pool.decode(picture(), JOB, wait_s=60).shape == (21, 37, 3)


def test_an_image_that_uses_its_time_ends_its_process_alone(pool: DecoderPool) -> None:
    with pytest.raises(PayloadTooLarge, match=r"more than 0.01 s of CPU"):
        pool.decode(blank(16000, 10000), replace(JOB, cpu_s=0.01, memory_bytes=1 << 33), wait_s=60)
    assert pool.decode(picture(), JOB, wait_s=60).shape == (21, 37, 3)


def test_log_counts_the_strikes_of_a_client(pool: DecoderPool, caplog: pytest.LogCaptureFixture) -> None:
    job = replace(JOB, cpu_s=0.01, memory_bytes=1 << 33)
    with request_lines("id", "192.0.2.7"):
        for _ in range(2):
            with pytest.raises(PayloadTooLarge):
                pool.decode(blank(16000, 10000), job, wait_s=60)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition("; ")[2] for line in lines] == [
        "images of client 192.0.2.7 that were: 1",
        "images of client 192.0.2.7 that were: 2",
    ]


def process_of(pool: DecoderPool) -> int:
    """The one process of a pool of one, which is idle."""
    assert pool.decode(picture(), JOB, wait_s=60).shape == (21, 37, 3)
    (process,) = pool.idle
    return process


def test_crash_of_the_decoder_is_told_as_such(
    pool: DecoderPool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, send = process_of(pool), socket.send_fds

    def send_and_crash(connection: socket.socket, messages: list[bytes], descriptors: list[int]) -> None:
        os.kill(process, signal.SIGSTOP)
        send(connection, messages, descriptors)
        os.kill(process, signal.SIGSEGV)
        os.kill(process, signal.SIGCONT)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", send_and_crash)
        with pytest.raises(NotAnImage, match="the decoder crashed on it"):
            pool.decode(picture(), JOB, wait_s=60)
    assert "the decoder crashed; images of client unknown" in caplog.text
    assert pool.decode(picture(), JOB, wait_s=60).shape == (21, 37, 3)


def test_a_process_that_was_killed_while_idle_is_replaced(pool: DecoderPool, caplog: pytest.LogCaptureFixture) -> None:
    process = process_of(pool)
    os.kill(process, signal.SIGKILL)
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    assert process_of(pool) != process
    assert caplog.text == ""


def test_a_process_that_the_system_does_not_start_is_a_lack_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    pool = DecoderPool(1)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", no_room)
        with pytest.raises(Overloaded, match="cannot start a process for this image now"):
            pool.decode(picture(), JOB, wait_s=60)
    assert pool.decode(picture(), JOB, wait_s=60).shape == (21, 37, 3)
    pool.close()


def test_process_gains_no_privileges_and_has_a_filter_of_system_calls(pool: DecoderPool) -> None:
    status = Path(f"/proc/{process_of(pool)}/status").read_text(encoding="ascii")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert (fields["Name"], fields["NoNewPrivs"], fields["Seccomp"]) == ("ecenet decoder", "1", "2")
