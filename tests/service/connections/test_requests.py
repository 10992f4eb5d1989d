"""Requests on one connection: what is parsed as one, what is refused, and the answers to those ahead of it."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.connections.limits import (
    FREE_PIECES,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    MAX_PIPELINED_REQUESTS,
    MEAN_PIECE_BYTES,
    TEXTS,
    Refusal,
)
from tests.support.limited_server import HEAD, REQUEST, ROOMY, answer_to, echo_length, headers_of, served
from tests.support.limits import HANG_S


@pytest.mark.anyio
async def test_trailers_without_end_close_the_connection() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    async with served(ROOMY) as (port, refused):
        await answer_to(port, head + b"x: " + b"a" * (4 * MAX_HEADER_BYTES))
        assert refused == ["header_size"]


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chunk", "count", "is_refused"),
    [(b"1\r\nx\r\n", FREE_PIECES, False), (b"1\r\nx\r\n", 2 * FREE_PIECES, True),
     (b"%x\r\n%s\r\n" % (MEAN_PIECE_BYTES, bytes(MEAN_PIECE_BYTES)), 2 * FREE_PIECES, False)],
)  # fmt: skip
async def test_a_body_has_few_small_pieces(chunk: bytes, count: int, is_refused: bool) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, CHUNKED + chunk * count + b"0\r\n\r\n")
    assert refused == (["small_pieces"] if is_refused else [])
    if is_refused:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"more than 4096 pieces and less than 64 bytes for each" in answer
    else:
        length = count * len(chunk.split(b"\r\n")[1])
        assert answer.endswith(b"\r\n\r\n%d" % length)


@pytest.mark.parametrize("behind", [REQUEST * (MAX_PIPELINED_REQUESTS + 5), HEAD % 680_000 + bytes(680_000)])
@pytest.mark.anyio
async def test_what_is_sent_before_an_answer_is_dropped_beyond_its_limit(behind: bytes) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, REQUEST + behind)
        assert refused == ["pipelining"]
        # The bytes that the server did not read may reset the connection.
        assert answer.count(b"HTTP/1.1 200") == (1 if answer else 0)


@pytest.mark.anyio
async def test_a_few_small_requests_may_be_pipelined() -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, REQUEST * 5 + headers_of(2))
        assert answer.count(b"HTTP/1.1 200") == 6
        assert refused == []


@pytest.mark.anyio
async def test_a_client_that_leaves_a_pipeline_is_gone_for_the_request_at_hand(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    requests: list[str] = []

    async def wait_for_the_client(scope: Scope, receive: Receive, send: Send) -> None:
        requests.append(scope["path"])
        await receive()
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"for nobody"})
        ended.set()

    async with asyncio.timeout(HANG_S), served(ROOMY, wait_for_the_client) as (port, refused):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(3)))
        await begun.wait()
        writer.close()
        await ended.wait()
    assert requests == ["/0"]
    assert refused == []
    assert caplog.records == []


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nhost: a\r\n"])
@pytest.mark.anyio
async def test_a_request_has_one_host(hosts: bytes) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"no header Host, or more than one")
        assert (await answer_to(port, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert refused == ["host"]


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        (b"Transfer-Encoding: Chunked \r\n", 200),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501),
    ],
)
@pytest.mark.anyio
async def test_a_body_has_no_other_transfer_coding_than_chunked(codings: bytes, status: int) -> None:
    async with served(ROOMY) as (port, refused):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + codings
        answer = await answer_to(port, head + b"\r\n1\r\nx\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert refused == ([] if status == 200 else ["transfer_coding"])


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


def offering(body: bytes) -> bytes:
    """A request as ``curl --http2`` sends it."""
    return (HEAD % len(body))[:-2] + OFFER + b"\r\n" + body


async def answer_to_pieces(port: int, *pieces: bytes) -> bytes:
    """All that the server sends for pieces that arrive one by one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with asyncio.timeout(HANG_S):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)
        answer = await reader.read()
    writer.close()
    return answer


BODY = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n\nupgrade: kept"


HEAD_BYTES = len(offering(b""))
CUTS = [40, offering(b"").index(b"\nUpgrade") + 4, HEAD_BYTES - 2, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 20]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.anyio
async def test_the_body_behind_an_offer_of_another_protocol_is_read_however_it_arrives(cut: int) -> None:
    request = offering(BODY)
    async with served(ROOMY) as (port, refused):
        answer = await answer_to_pieces(port, request[:cut], request[cut:], headers_of(2))
    assert re.findall(rb"\r\n\r\n(\d+)", answer) == [b"%d" % len(BODY), b"0"]
    assert refused == []


@pytest.mark.anyio
async def test_offers_may_be_pipelined_and_have_chunks_or_no_body() -> None:
    chunked = CHUNKED.replace(b"Connection: close\r\n", OFFER) + b"4\r\nabcd\r\n0\r\n\r\n"
    none = b"GET / HTTP/1.1\r\nHost: a\r\n" + OFFER + b"\r\n"
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, REQUEST + offering(b"abc") + chunked + none + offering(b"ab") + headers_of(2))
    assert re.findall(rb"\r\n\r\n(\d+)", answer) == [b"0", b"3", b"4", b"0", b"2", b"0"]
    assert refused == []


@pytest.mark.anyio
async def test_a_body_is_as_it_was_sent_when_its_head_arrives_in_two_pieces() -> None:
    head, bodies = HEAD % 12, list[bytes]()

    async def keep_body(scope: Scope, receive: Receive, send: Send) -> None:
        async def kept() -> Message:
            message = await receive()
            bodies.append(message["body"])
            return message

        await echo_length(scope, kept, send)

    async with served(ROOMY, keep_body) as (port, _):
        await answer_to_pieces(port, head[:-2], head[-2:] + b"\nupgrade: ab" + headers_of(2))
    assert bodies == [b"\nupgrade: ab", b""]


@pytest.mark.anyio
async def test_trailers_are_no_headers() -> None:
    seen: list[list[bytes]] = []

    async def keep_headers(scope: Scope, receive: Receive, send: Send) -> None:
        await echo_length(scope, receive, send)
        seen.append([name for name, _ in scope["headers"]])

    trailers = b"X-API-Key: a\r\nHost: b\r\nX-Request-ID: c\r\n"
    async with served(ROOMY, keep_headers) as (port, refused):
        answer = await answer_to(port, CHUNKED + b"1\r\na\r\n0\r\n" + trailers + b"\r\n")
    assert answer.endswith(b"\r\n\r\n1")
    assert seen == [[b"host", b"transfer-encoding", b"connection"]]
    assert refused == []


BAD: list[tuple[bytes, Refusal]] = [
    (b"garbage\r\n\r\n", "malformed"),
    (b"GET / HTTP/1.1\r\n\r\n", "host"),
    (headers_of(MAX_HEADER_FIELDS + 1), "header_size"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer_coding"),
    (CHUNKED + b"zz\r\n", "malformed"),
]


@pytest.mark.parametrize(("bad", "refusal"), BAD)
@pytest.mark.anyio
async def test_a_request_is_answered_whatever_comes_behind_it(bad: bytes, refusal: Refusal) -> None:
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, HEAD % 3 + b"abc" + bad)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\n3")
    assert refused == [refusal]


@pytest.mark.parametrize(("bad", "refusal"), BAD)
@pytest.mark.anyio
async def test_what_is_no_request_is_refused_with_its_reason(bad: bytes, refusal: Refusal) -> None:
    status, text = TEXTS[refusal]
    async with served(ROOMY) as (port, refused):
        answer = await answer_to(port, bad)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(text.encode())
    assert refused == [refusal]


@pytest.mark.anyio
async def test_nothing_is_written_into_an_answer_that_has_begun() -> None:
    async def answer_early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    async with served(ROOMY, answer_early) as (port, refused):
        answer = await answer_to_pieces(port, CHUNKED + b"1\r\na\r\n", b"garbage\r\n")
    assert answer.endswith(b"\r\n5\r\nfirst\r\n")
    assert refused == ["malformed"]


@pytest.mark.anyio
async def test_a_client_of_http_1_0_gets_no_interim_answer() -> None:
    old = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na"
    new = old.replace(b"1.0\r\n", b"1.1\r\nHost: a\r\nConnection: close\r\n")
    async with served(ROOMY) as (port, _):
        assert (await answer_to(port, old)).startswith(b"HTTP/1.1 200 ")
        assert (await answer_to_pieces(port, new[:-1], new[-1:])).startswith(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 "
        )


@pytest.mark.anyio
async def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first, ", "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    async with served(ROOMY, stream) as (port, _):
        head, _, body = (await answer_to(port, b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"first, last"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [(b"http://a", "/", b""), (b"http://a?b=1", "/", b"b=1"), (b"http://a/c?d", "/c", b"d"), (b"*", "*", b"")],
)
@pytest.mark.anyio
async def test_a_target_may_be_a_whole_url(target: bytes, path: str, query: bytes) -> None:
    seen: list[tuple[str, bytes]] = []

    async def keep_target(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["path"], scope["query_string"]))
        await echo_length(scope, receive, send)

    async with served(ROOMY, keep_target) as (port, refused):
        head = b"OPTIONS %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % target
        assert (await answer_to(port, head)).startswith(b"HTTP/1.1 200 ")
    assert seen == [(path, query)]
    assert refused == []
