"""Messages between two processes: borders, order and descriptors, and an end that is gone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.workers import channel as module
from service.workers.channel import Channel, check_sealed, read_json, sealed_memory, socket_pair

pytestmark = pytest.mark.anyio

Message = tuple[int, bytes, int]
PACKET_BYTES = 16 * 1024


class End:
    """A channel that keeps what it gets."""

    def __init__(self, connection: Any) -> None:
        self.messages: list[Message] = []
        self.closed = 0
        self.arrived = asyncio.Event()
        self.channel = Channel(connection, self._receive, self._end)

    async def until(self, count: int) -> list[Message]:
        """The messages once so many are there."""
        while len(self.messages) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return self.messages

    def _receive(self, *message: Any) -> None:
        self.messages.append(message)
        self.arrived.set()

    def _end(self) -> None:
        self.closed += 1
        self.arrived.set()


@pytest.fixture
async def ends() -> Any:
    here, there = (End(connection) for connection in socket_pair())
    yield here, there
    here.channel.close()
    there.channel.close()


@pytest.fixture
def memory() -> Iterator[int]:
    """A descriptor of the bytes ``abc``."""
    descriptor = sealed_memory("test", b"abc")
    yield descriptor
    os.close(descriptor)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_messages_keep_their_borders_and_their_order(ends: tuple[End, End]) -> None:
    here, there = ends
    for message in ((1,), (255, b"\0\1"), (7, bytes(PACKET_BYTES))):
        here.channel.send(*message)
    assert await there.until(3) == [(1, b"", -1), (255, b"\0\1", -1), (7, bytes(PACKET_BYTES), -1)]
    there.channel.send(2, b"back")
    assert await here.until(1) == [(2, b"back", -1)]


async def test_a_descriptor_arrives_as_a_copy_that_no_program_inherits(ends: tuple[End, End], memory: int) -> None:
    here, there = ends
    here.channel.send(3, b"with", memory)
    ((kind, fields, received),) = await there.until(1)
    assert (kind, fields) == (3, b"with")
    assert received not in {-1, memory}
    assert os.pread(received, 10, 0) == b"abc"
    assert not os.get_inheritable(received)
    os.close(received)


async def test_a_reader_that_is_behind_gets_everything_in_order(ends: tuple[End, End]) -> None:
    here, there = ends
    before = open_files()
    for number in range(400):
        memory = sealed_memory("test", str(number).encode())
        here.channel.send(number % 256, bytes(8000), memory if number % 10 == 0 else -1)
        os.close(memory)
    assert open_files() > before  # copies of those that the socket has not taken yet
    messages = await there.until(400)
    assert [kind for kind, _, _ in messages] == [number % 256 for number in range(400)]
    assert all(fields == bytes(8000) for _, fields, _ in messages)
    for number, (_, _, descriptor) in enumerate(messages):
        assert (descriptor >= 0) is (number % 10 == 0)
        if descriptor >= 0:
            assert os.pread(descriptor, 10, 0) == str(number).encode()
            os.close(descriptor)
    here.channel.send(1, b"next")
    assert (await there.until(401))[-1] == (1, b"next", -1)
    assert open_files() == before


async def test_closing_an_end_drops_what_it_has_not_sent(ends: tuple[End, End], memory: int) -> None:
    here, there = ends
    before = open_files()
    for _ in range(400):
        here.channel.send(1, bytes(8000), memory)
    here.channel.close()
    here.channel.close()
    there.channel.close()
    await asyncio.sleep(0)
    assert (here.closed, there.closed) == (0, 0)
    assert open_files() == before - 2  # the two ends


async def test_the_other_end_is_reported_gone_once(ends: tuple[End, End]) -> None:
    here, there = ends
    there.channel.send(1, b"last")
    there.channel.close()
    await here.until(1)
    while not here.closed:
        await here.arrived.wait()
    assert not here.channel.is_open
    here.channel.send(1, b"to nobody")
    await asyncio.sleep(0)
    assert (here.closed, here.messages) == (1, [(1, b"last", -1)])


async def test_sending_to_an_end_that_is_gone_reports_it(ends: tuple[End, End]) -> None:
    here, there = ends
    there.channel.close()
    here.channel.send(1, b"x")
    here.channel.send(2, b"y")
    assert here.channel.is_open
    assert here.closed == 0  # never inside of the call
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (here.channel.is_open, here.closed) == (False, 1)


async def test_an_end_that_is_gone_with_unread_messages_is_reported(ends: tuple[End, End]) -> None:
    here, there = ends
    here.channel.send(1, b"unread")
    there.channel.close()
    while not here.closed:
        await here.arrived.wait()
    assert (here.closed, here.messages) == (1, [])


async def test_other_ancillary_data_is_not_a_descriptor() -> None:
    connections = socket_pair()
    connections[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    here, there = (End(connection) for connection in connections)
    here.channel.send(1, b"with credentials")
    assert await there.until(1) == [(1, b"with credentials", -1)]
    here.channel.close()
    there.channel.close()


async def test_descriptor_zero_is_one_like_others(ends: tuple[End, End]) -> None:
    """A service without standard input gets 0 for a file of its own."""
    here, there = ends
    standard_input = os.dup(0)
    try:
        os.close(0)
        before = open_files()
        assert sealed_memory("test", b"7") == 0
        here.channel.send(1, b"", 0)
        ((_, _, received),) = await there.until(1)
        assert read_json(b"", received) == 7
        for _ in range(400):
            here.channel.send(2, bytes(8000), 0)
        assert read_json(b"", 0) == 7
        here.channel.send(3)
        # The copy of the next message that has to wait is 0.
        memory = sealed_memory("test", b"8")
        assert memory == 0
        copied = os.dup(memory)
        os.close(memory)
        here.channel.send(4, b"", copied)
        os.close(copied)
        messages = await there.until(403)
        for _, _, descriptor in messages[1:401]:
            assert read_json(b"", descriptor) == 7
        assert messages[401] == (3, b"", -1)
        assert read_json(b"", messages[402][2]) == 8
        assert open_files() == before
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)


async def test_others_have_their_turn_after_64_messages(ends: tuple[End, End]) -> None:
    here, there = ends
    for number in range(100):
        here.channel.send(number)
    turns = []
    while len(there.messages) < 100:
        await asyncio.sleep(0)
        turns.append(len(there.messages))
    assert 64 in turns
    assert [kind for kind, _, _ in there.messages] == list(range(100))


@pytest.mark.parametrize("length", [1, PACKET_BYTES - 2, PACKET_BYTES - 1, 100_000])
async def test_json_of_any_length_arrives(ends: tuple[End, End], length: int) -> None:
    here, there = ends
    before = open_files()
    here.channel.send_json(9, "a" * length)
    ((kind, fields, descriptor),) = await there.until(1)
    assert kind == 9
    assert (descriptor >= 0) is (fields == b"") is (length + 2 > PACKET_BYTES)
    assert read_json(fields, descriptor) == "a" * length
    assert open_files() == before


async def test_json_has_no_spaces(ends: tuple[End, End]) -> None:
    here, there = ends
    here.channel.send_json(9, {"a": [1, 2]})
    assert await there.until(1) == [(9, b'{"a":[1,2]}', -1)]


def test_json_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_JSON_BYTES", 10)
    assert read_json(b"", sealed_memory("test", b'"12345678"')) == "12345678"
    assert read_json(b"", sealed_memory("test", '"éééé"'.encode())) == "éééé"
    before = open_files()
    for text in ('"123456789"', '"éééé1"'):
        with pytest.raises(ValueError, match="a message has more than 10 bytes"):
            read_json(b"", sealed_memory("test", text.encode()))
    assert open_files() == before


def test_sealed_memory_has_a_name_and_a_size_that_stays() -> None:
    descriptor = sealed_memory("slots", b"ab", 8)
    try:
        assert "memfd:ecenet-slots" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        assert os.pread(descriptor, 100, 0) == b"ab" + bytes(6)
        assert not os.get_inheritable(descriptor)
        check_sealed(descriptor, 8)
        for size in (4, 16):
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size)
        with pytest.raises(ValueError, match=r"has 8 bytes and seals 7, expected 9 and 7$"):
            check_sealed(descriptor, 9)
    finally:
        os.close(descriptor)


def test_sealed_memory_without_content_is_zeros() -> None:
    descriptor = sealed_memory("test", size=6)
    assert os.pread(descriptor, 100, 0) == bytes(6)
    os.close(descriptor)


def test_memory_that_is_not_sealed_is_refused(tmp_path: Path) -> None:
    descriptor = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    with pytest.raises(ValueError, match="has 0 bytes and seals 0, expected 0 and 7"):
        check_sealed(descriptor, 0)
    os.close(descriptor)
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(ValueError, match=r"^a descriptor is not a file in memory$"),
    ):
        check_sealed(file.fileno(), 0)


def test_memory_that_cannot_be_made_leaves_no_descriptor() -> None:
    before = open_files()
    with pytest.raises(OSError, match="Invalid argument"):
        sealed_memory("test", size=-1)
    assert open_files() == before
