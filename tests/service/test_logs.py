"""Log lines: what is in them, whose they are, and that nothing sent by a client can forge one."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.imaging.codec import open_image
from service.inference import pipeline
from service.log_pipe import PipeHandler
from service.logs import escape, make_handler, request_lines, timestamp, watch_drops
from service.settings import LogFormat
from tests.support.api import Api
from tests.support.limits import HANG_S
from tests.support.pictures import Solid

pytestmark = pytest.mark.anyio


NASTY = "a\nb\r\x1b[31mred\x00\u2028\u202e\x85\udc80end"


@contextmanager
def logged(log_format: LogFormat, name: str = "test.logs") -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with its lines, which go nowhere else: pytest-xdist cannot send a captured lone surrogate."""
    stream = io.StringIO()
    handler = make_handler(log_format, stream)
    logger = logging.getLogger(name)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield logger, stream
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = True


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_timestamps_are_rfc_3339_in_utc() -> None:
    assert timestamp(1738324800.0) == "2025-01-31T12:00:00.000Z"
    assert timestamp(1738324800.9996) == "2025-01-31T12:00:00.999Z"


def test_json_line_has_its_members_and_the_fields_of_extra() -> None:
    with logged("json") as (logger, stream), request_lines("id-1"):
        logger.warning("%d images", 3, extra={"images": 3, "path": Path("/x")})
    (line,) = objects(stream)
    assert abs(datetime.fromisoformat(line.pop("ts")) - datetime.now(UTC)).total_seconds() < 60
    assert line == {
        "level": "warning",
        "logger": "test.logs",
        "message": "3 images",
        "request_id": "id-1",
        "images": 3,
        "path": "/x",
    }


def test_extra_never_hides_a_standard_member() -> None:
    with logged("json") as (logger, stream):
        logger.info("true", extra={"level": "forged", "logger": "forged", "ts": "forged"})
    (line,) = objects(stream)
    assert (line["level"], line["logger"], line["message"]) == ("info", "test.logs", "true")
    assert line["ts"] != "forged"


def test_json_line_of_an_exception_is_one_line() -> None:
    with logged("json") as (logger, stream):
        try:
            raise RuntimeError(NASTY)
        except RuntimeError:
            logger.exception("failed")
    (line,) = objects(stream)
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert "RuntimeError: a\nb" in line["exception"]


def test_console_line() -> None:
    with logged("console") as (logger, stream):
        logger.info("outside")
        with request_lines("id-1"):
            logger.info("inside")
    outside, inside = stream.getvalue().splitlines()
    assert outside.split(" ", 1)[1] == "INFO test.logs: outside"
    assert inside.split(" ", 1)[1] == "INFO test.logs: inside [id-1]"
    assert inside[10] == "T"
    assert inside.split(" ")[0].endswith("Z")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_control_characters_neither_begin_a_line_nor_reach_the_terminal(log_format: LogFormat) -> None:
    with logged(log_format) as (logger, stream):
        logger.info("path %s", NASTY, extra={"path": NASTY})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert r"a\nb\r" in text


def test_console_lines_of_an_exception_are_indented_so_that_none_looks_like_a_record() -> None:
    with logged("console") as (logger, stream):
        try:
            raise RuntimeError("first\n2025-01-31T12:00:00.000Z INFO service: forged\x1b[2J")
        except RuntimeError:
            logger.exception("failed")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("ERROR test.logs: failed")
    assert all(line.startswith("    ") for line in others)
    assert others[-1] == "    2025-01-31T12:00:00.000Z INFO service: forged\\x1b[2J"


def test_printable_text_of_any_language_is_left_alone() -> None:
    assert escape("Straße 街 \\ 'x'") == "Straße 街 \\ 'x'"


async def test_lines_of_tasks_and_threads_belong_to_their_request() -> None:
    async def request(name: str) -> None:
        with request_lines(name):
            await asyncio.sleep(0)
            await asyncio.to_thread(logger.info, name)
            await asyncio.create_task(later(name))

    async def later(name: str) -> None:
        logger.info(name)

    with logged("json") as (logger, stream):
        await asyncio.gather(*(request(f"id-{number}") for number in range(5)))
        logger.info("after")
    lines = objects(stream)
    assert len(lines) == 11
    assert [line.get("request_id") for line in lines[:-1]] == [line["message"] for line in lines[:-1]]
    assert "request_id" not in lines[-1]


async def test_access_line_tells_a_request(api: Api, solid: Solid) -> None:
    with logged("json", "service.http.request_context") as (_, stream):
        response = await api.http.post(
            "/segment?format=json&background=5ec2e7",
            content=solid(128),
            headers={"Content-Type": "image/png", "X-Request-ID": "id-1"},
        )
    (line,) = objects(stream)
    assert (line["level"], line["request_id"]) == ("info", "id-1")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/segment", 200)
    assert line["bytes"] == len(response.content)
    assert line["duration_ms"] > 0
    assert line["message"].startswith("POST /segment 200 ")
    assert "5ec2e7" not in stream.getvalue()


async def test_health_checks_are_logged_for_debugging_only(api: Api) -> None:
    paths = ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/no-such-path"]
    with logged("json", "service.http.request_context") as (_, stream):
        for path in paths:
            await api.get(path)
    assert [line["path"] for line in objects(stream)] == paths
    assert [line["level"] for line in objects(stream)] == ["debug"] * 5 + ["info"]


async def test_path_cannot_forge_a_line(api: Api) -> None:
    with logged("console", "service.http.request_context") as (_, stream):
        await api.get("/x%0a2025-01-31T12:00:00.000Z%20INFO%20forged%1b[31m")
    (line,) = stream.getvalue().splitlines()
    assert r"GET /x\n2025-01-31T12:00:00.000Z INFO forged\x1b[31m 404" in line


async def test_line_of_a_failure_has_the_request_id(api: Api, solid: Solid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(api.pipeline), "admit", lambda *_: 1 // 0)
    with logged("json", "service") as (_, stream):
        await api.http.post("/segment", content=solid(1), headers={"X-Request-ID": "id-2", "Content-Type": "image/png"})
    failure = next(line for line in objects(stream) if line["level"] == "error")
    assert failure["request_id"] == "id-2"
    assert "ZeroDivisionError" in failure["exception"]


async def test_lines_from_codec_threads_have_the_request_id(
    api: Api, solid: Solid, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_oddly(*arguments: Any, **options: Any) -> Any:
        logging.getLogger("PIL.Image").warning("odd")
        return open_image(*arguments, **options)

    monkeypatch.setattr(pipeline, "open_image", open_oddly)
    with logged("json", "PIL") as (_, stream):
        await api.http.post("/segment", content=solid(1), headers={"X-Request-ID": "id-3", "Content-Type": "image/png"})
    (line,) = [line for line in objects(stream) if line["message"] == "odd"]
    assert line["request_id"] == "id-3"


_PROGRAM = """
import logging, sys, warnings
from service.logs import configure_logging
logging.basicConfig(format="overridden %(message)s")
configure_logging("info", "json")
logging.getLogger("uvicorn.error").info("chatter")
logging.getLogger("uvicorn.error").warning("library")
logging.getLogger("PIL.TiffImagePlugin").debug("tag: content of a file")
logging.getLogger("PIL.TiffImagePlugin").error("more samples per pixel than can be decoded")
warnings.warn("odd", UserWarning)
configure_logging("debug", "json")
logging.getLogger("PIL.TiffImagePlugin").debug("tag: content of a file")
logging.getLogger("service").debug("ours")
"""


def test_libraries_and_warnings_go_through_the_same_formatter() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", _PROGRAM], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert run.stdout == ""
    assert [line["logger"] for line in lines] == ["uvicorn.error", "py.warnings", "service"]
    assert lines[0]["message"] == "library"
    assert "UserWarning: odd" in lines[1]["message"]


def test_drops_of_the_process_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = make_handler("console", io.StringIO())
    assert isinstance(handler, PipeHandler)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler(), handler])
    told: list[None] = []
    watch_drops(lambda: told.append(None))
    handler.on_drop()
    assert len(told) == 1
