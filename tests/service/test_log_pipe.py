"""A log that nobody reads: lines are dropped and counted, and nobody waits."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from service import log_pipe
from service.log_pipe import PATIENCE_S, PipeHandler
from tests.support.limits import HANG_S

PIPE_BYTES = 64 * 1024


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a pipe, and a stream of its writing end."""
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    yield reading, stream
    stream.close()
    os.close(reading)


def logger_of(stream: TextIO) -> tuple[logging.Logger, PipeHandler]:
    handler = PipeHandler(stream)
    logger = logging.Logger("test.pipe")
    logger.addHandler(handler)
    return logger, handler


def test_lines_come_whole_and_in_order(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    logger, handler = logger_of(stream)
    lines = ["short", "long " * 5000, "\udc80"]
    for line in lines:
        logger.info(line)
    read = os.read(reading, PIPE_BYTES).decode().splitlines()
    assert read == ["short", "long " * 5000, "\\udc80"]
    assert handler.dropped == 0


def test_an_unread_pipe_drops_lines_and_counts_them(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    logger, handler = logger_of(stream)
    told: list[None] = []
    handler.on_drop = lambda: told.append(None)
    began = time.monotonic()
    for index in range(5000):
        logger.info("line %d %s", index, "x" * 100)
    dropped = handler.dropped
    # One wait for the reader, and none for each line.
    assert time.monotonic() - began < dropped * PATIENCE_S / 10
    written = os.read(reading, PIPE_BYTES).decode().splitlines()
    assert len(written) + dropped == 5000
    assert len(told) == dropped
    logger.info("again")
    assert os.read(reading, PIPE_BYTES).decode().splitlines() == [
        f"{dropped} lines of the log were dropped: nobody read them",
        "again",
    ]
    assert handler.dropped == 0


def test_a_line_that_was_cut_ends_before_the_next(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    logger, _ = logger_of(stream)
    logger.info("a" * (PIPE_BYTES - 10_000))
    logger.info("b" * 20_000)
    first, second = os.read(reading, PIPE_BYTES).decode().split("\n")
    assert (set(first), set(second)) == ({"a"}, {"b"})
    logger.info("c")
    assert os.read(reading, PIPE_BYTES).decode().splitlines()[-1] == "c"
    assert second


def test_lines_that_a_full_disk_does_not_take_are_counted(
    pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reading, stream = pipe
    logger, handler = logger_of(stream)
    told: list[None] = []
    handler.on_drop = lambda: told.append(None)
    with monkeypatch.context() as full, Path("/dev/full").open("w", encoding="utf-8") as disk:
        full.setattr(handler, "_descriptor", disk.fileno())
        for _ in range(3):
            logger.info("lost")
    assert handler.dropped == len(told) == 3
    logger.info("there is space again")
    assert os.read(reading, PIPE_BYTES).decode().splitlines() == [
        "3 lines of the log were dropped: No space left on device",
        "there is space again",
    ]
    assert handler.dropped == 0
    assert capfd.readouterr() == ("", "")


def test_lines_are_counted_when_the_reader_has_left() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        logger, handler = logger_of(stream)
        for _ in range(3):
            logger.info("lost")
        assert handler.dropped == 3


def test_a_slow_reader_gets_every_line(pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_pipe, "PATIENCE_S", HANG_S)  # on a busy machine a thread may wait longer for a core
    reading, stream = pipe
    logger, handler = logger_of(stream)
    received = bytearray()

    def read() -> None:
        while b"end" not in received:
            received.extend(os.read(reading, PIPE_BYTES))

    reader = threading.Thread(target=read)
    reader.start()
    for index in range(3000):
        logger.info("line %d %s", index, "x" * 100)
    logger.info("end")
    reader.join()
    assert len(received.splitlines()) == 3001
    assert handler.dropped == 0


def test_a_stream_without_descriptor_gets_the_lines() -> None:
    stream = io.StringIO()
    logger, _ = logger_of(stream)
    logger.info("line")
    assert stream.getvalue() == "line\n"
