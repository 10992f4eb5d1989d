"""Connections of processes that listen on one socket: as many for each; one that is stopped keeps nobody waiting."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trustme

from service.connections.acceptor import Acceptor
from service.workers.shared_connections import SharedConnections
from tests.support.limits import HANG_S


class Counted(asyncio.Protocol):
    """Says which process it belongs to, and counts as that process's connection."""

    def __init__(self, name: bytes, counts: SharedConnections) -> None:
        self._name = name
        self._counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._counts.open("client")
        transport.write(self._name)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.close("client")


class Listener:
    """A socket on which several acceptors listen, as those of processes do."""

    def __init__(self, processes: int) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.counts = [SharedConnections.create(processes)]
        self.counts += [self.counts[0].of(row) for row in range(1, processes)]
        self._handles: list[socket.socket] = []
        self._clients: list[asyncio.StreamWriter] = []

    def accept(self, row: int, tls: ssl.SSLContext | None = None, timeout_s: float = HANG_S) -> Acceptor:
        counts = self.counts[row]
        self._handles.append(handle := self.socket.dup())  # as each process has its own
        return Acceptor(handle, lambda: Counted(b"%d" % row, counts), counts, tls=tls, handshake_timeout_s=timeout_s)

    async def connect(self) -> int:
        """Connect; gives the row that answers."""
        reader, writer = await asyncio.open_connection(*self.socket.getsockname())
        self._clients.append(writer)
        async with asyncio.timeout(HANG_S):
            return int(await reader.readexactly(1))

    def hang_up(self, number: int) -> None:
        """Close a client's connection."""
        self._clients.pop(number).close()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for handle in (*self._handles, self.socket):
            handle.close()


@asynccontextmanager
async def listening(processes: int, rows: int) -> AsyncIterator[Listener]:
    """The first ``rows`` of so many processes accept."""
    listener = Listener(processes)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        for row in range(rows):
            stack.push_async_callback(listener.accept(row).close)
        yield listener


@pytest.mark.anyio
async def test_each_process_gets_as_many_connections() -> None:
    async with listening(3, 3) as listener:
        rows = await asyncio.gather(*(listener.connect() for _ in range(12)))
        counts = [rows.count(row) for row in range(3)]
        assert max(counts) - min(counts) <= 3, counts  # on a busy machine one may wait in vain for another


@pytest.mark.anyio
async def test_a_process_that_has_lost_connections_gets_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(2, 2) as listener:
        rows = [await listener.connect() for _ in range(10)]
        for number in reversed(range(10)):
            if rows[number] == 1:
                listener.hang_up(number)
        async with asyncio.timeout(HANG_S):
            while not listener.counts[0].others_have_fewer(-2):  # noqa: ASYNC110  the counts are what is tested
                await asyncio.sleep(0.01)
        monkeypatch.setattr("service.connections.acceptor._YIELD_S", HANG_S)
        assert [await listener.connect() for _ in range(2)] == [1] * 2


@pytest.mark.anyio
async def test_processes_that_do_not_accept_keep_nobody_waiting() -> None:
    async with listening(4, 1) as listener:
        listener.counts[2].begin_accepting()  # and stands still
        assert [await listener.connect() for _ in range(5)] == [0] * 5


@pytest.mark.anyio
async def test_an_acceptor_that_is_closed_leaves_the_connections_to_the_others() -> None:
    async with listening(2, 1) as listener:
        second = listener.accept(1)
        rows = [await listener.connect() for _ in range(4)]
        assert set(rows) == {0, 1}
        await second.close()
        assert [await listener.connect() for _ in range(4)] == [0] * 4
        assert not listener.counts[0].others_have_fewer(0)


@pytest.mark.anyio
async def test_a_lack_of_file_handles_is_logged_and_passes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connections.acceptor._RETRY_S", 0.01)
    accept, faults = socket.socket.accept, [OSError(errno.EMFILE, "Too many open files"), ConnectionAbortedError()]

    def accept_later(self: socket.socket) -> tuple[socket.socket, object]:
        if faults:
            raise faults.pop(0)
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    async with listening(1, 1) as listener:
        assert await listener.connect() == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["a connection cannot be accepted, and is tried again in 0.01 s: [Errno 24] Too many open files"]


@pytest.mark.anyio
async def test_a_client_that_does_not_encrypt_is_dropped_in_time(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    listener = Listener(1)
    acceptor = listener.accept(0, tls, timeout_s=0.2)
    reader, writer = await asyncio.open_connection(*listener.socket.getsockname())
    async with asyncio.timeout(HANG_S):
        assert await reader.read() == b""
        trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        other, others = await asyncio.open_connection(
            *listener.socket.getsockname(), ssl=trusted, server_hostname="localhost"
        )
        assert await other.readexactly(1) == b"0"
    writer.close()
    others.close()
    await acceptor.close()
    listener.close()
