"""Answers to many images in a multipart message, as well-known parsers read it."""

from __future__ import annotations

import email
import email.policy
import io
import zipfile
from collections.abc import AsyncIterator
from email.message import EmailMessage
from typing import cast

import pytest
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import NotAcceptable
from service.http.many_images.envelope import Envelope, Part, choose_envelope, content_headers, new_boundary, stream

pytestmark = pytest.mark.anyio

NASTY = b'\r\n--x--\r\n\0\xff"\n\n.\r\n--ecenet-\r\nContent-Type: text/html\r\n\r\n'
PARTS = (
    Part(0, "a.png", 200, "0000-a.png", "image/png", NASTY, {"ETag": '"abc"'}),
    Part(1, 'b "c"\\.png', 200, "0001-b_c.png", "image/png", b"", {"ETag": '"def"'}),
    Part(2, "stra\u00dfe\r\nX: y", 503, "0002-x.problem.json", "application/problem+json", b"{}", {"Retry-After": "3"}),
)


async def parts() -> AsyncIterator[Part]:
    for part in PARTS:
        yield part


@pytest.fixture
async def message() -> tuple[str, bytes]:
    """Content type and body."""
    boundary = new_boundary()
    pieces = [piece async for piece in stream(Envelope.MULTIPART, boundary, parts())]
    return content_headers(Envelope.MULTIPART, boundary)["Content-Type"], b"".join(pieces)


async def test_pythons_email_parser_reads_every_part(message: tuple[str, bytes]) -> None:
    kind, body = message
    parsed = email.message_from_bytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + body, EmailMessage, policy=email.policy.HTTP
    )
    assert (parsed.get_content_type(), parsed.defects) == ("multipart/mixed", [])
    found = [cast(EmailMessage, part) for part in parsed.iter_parts()]
    assert [part.get_payload(decode=True) for part in found] == [part.content for part in PARTS]
    assert [part["Status"] for part in found] == ["200", "200", "503"]
    assert [part.get_content_type() for part in found] == [part.media_type for part in PARTS]
    assert [part["ETag"] for part in found] == ['"abc"', '"def"', None]
    assert [part["Retry-After"] for part in found] == [None, None, "3"]
    assert [int(part["Content-Length"]) for part in found] == [len(part.content) for part in PARTS]
    assert [part.get_filename() for part in found] == [part.file for part in PARTS]
    names = [part["Content-Disposition"].params["name"] for part in found]
    assert names == ["a.png", 'b "c"\\.png', "stra\u00dfe\r\nX: y"]


async def test_python_multipart_reads_every_part(message: tuple[str, bytes]) -> None:
    kind, body = message
    contents: list[bytearray] = []
    fields: list[bytes] = []
    ended: list[bool] = []
    parser = MultipartParser(
        parse_options_header(kind)[1][b"boundary"],
        {
            "on_part_begin": lambda: contents.append(bytearray()),
            "on_header_field": lambda data, start, end: fields.append(data[start:end]),
            "on_part_data": lambda data, start, end: contents[-1].extend(data[start:end]),
            "on_end": lambda: ended.append(True),
        },
    )
    parser.write(body)
    parser.finalize()
    assert [bytes(content) for content in contents] == [part.content for part in PARTS]
    assert ended == [True]
    assert b"X" not in fields


async def test_zip_file_ends_with_an_index() -> None:
    body = b"".join([piece async for piece in stream(Envelope.ZIP, "unused", parts())])
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == [*(part.file for part in PARTS), "index.json"]
        assert archive.read("0000-a.png") == NASTY


@pytest.mark.parametrize(
    ("asked", "accept", "expected"),
    [
        (None, None, "zip"),
        (None, "*/*", "zip"),
        (None, "multipart/mixed", "multipart"),
        (None, "multipart/*;q=0.9, application/zip;q=0.8", "multipart"),
        (None, "application/zip, multipart/mixed", "zip"),
        (Envelope.MULTIPART, "application/zip", "multipart"),
        (Envelope.ZIP, "text/html", "zip"),
    ],
)
def test_parameter_then_header_then_zip(asked: Envelope | None, accept: str | None, expected: str) -> None:
    assert choose_envelope(asked, accept) == expected


def test_header_that_takes_neither_is_refused() -> None:
    with pytest.raises(NotAcceptable, match=r"application/zip, multipart/mixed; .* choose with \?envelope="):
        choose_envelope(None, "image/png")
