"""Small messages between two processes over a Unix socket that keeps their borders (``SOCK_SEQPACKET``).

A message is a kind, which is one byte, fields, and at most one file descriptor. Nothing is pickled: fields are packed
numbers, or JSON. A message too long for a packet goes in a file in memory, of which the packet has the descriptor.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

# Linux takes packets of up to the send buffer, 208 KiB by default.
_MAX_PACKET_BYTES = 16 * 1024
# JSON of the catalog of many models with many classes.
_MAX_JSON_BYTES = 64 * 1024 * 1024
_DESCRIPTOR = struct.Struct("i")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_DESCRIPTOR.size)
# Packets that are read before other work gets its turn.
_PACKETS_AT_ONCE = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

# Called with the kind, the fields, and a descriptor or -1, which is the receiver's to close.
Receive = Callable[[int, bytes, int], None]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a new connection; each goes to one process."""
    return socket.socketpair(type=socket.SOCK_SEQPACKET)


class Channel:
    """One end of a connection, on the running event loop.

    Attributes:
        is_open: False once the other end, or this one, has closed.
    """

    def __init__(self, connection: socket.socket, on_message: Receive, on_close: Callable[[], None]) -> None:
        """Begin to receive.

        Args:
            connection: This end; the channel closes it.
            on_message: Called with each message.
            on_close: Called once, when the other end is gone.
        """
        connection.setblocking(False)
        self.is_open = True
        self._connection = connection
        self._on_message = on_message
        self._on_close = on_close
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection.fileno(), self._receive)

    def send(self, kind: int, fields: bytes = b"", descriptor: int = -1) -> None:
        """Send a message, in order; ``descriptor`` is copied, and may be closed after the call. Never blocks.

        To a closed channel nothing is sent: ``on_close`` reports its end.
        """
        if not self.is_open:
            return
        packet = bytes((kind,)) + fields
        if not self._unsent and self._sent(packet, descriptor):
            return
        self._unsent.append((packet, os.dup(descriptor) if descriptor >= 0 else -1))
        self._loop.add_writer(self._connection.fileno(), self._send_rest)

    def send_json(self, kind: int, value: Any) -> None:
        """Send a JSON value; ``read_json`` reads it."""
        text = json.dumps(value, separators=(",", ":")).encode()
        if len(text) <= _MAX_PACKET_BYTES:
            self.send(kind, text)
            return
        descriptor = sealed_memory("message", text)
        try:
            self.send(kind, b"", descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close this end; ``on_close`` is not called."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        while self._unsent:
            _close(self._unsent.popleft()[1])
        self._connection.close()

    def _receive(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            if not self.is_open:
                return
            try:
                packet, ancillary, _, _ = self._connection.recvmsg(
                    _MAX_PACKET_BYTES + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                packet, ancillary = b"", []
            if not packet:
                self._end()
                return
            self._on_message(packet[0], packet[1:], _descriptor_of(ancillary))

    def _sent(self, packet: bytes, descriptor: int) -> bool:
        try:
            if descriptor < 0:
                self._connection.send(packet)
            else:
                socket.send_fds(self._connection, [packet], [descriptor])
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone, which is noticed by the reader too
            self._loop.call_soon(self._end)
        return True

    def _send_rest(self) -> None:
        while self._unsent:
            packet, descriptor = self._unsent[0]
            if not self._sent(packet, descriptor):
                return
            _close(descriptor)
            self._unsent.popleft()
        self._loop.remove_writer(self._connection.fileno())

    def _end(self) -> None:
        if self.is_open:
            self.close()
            self._on_close()


def read_json(fields: bytes, descriptor: int = -1) -> Any:
    """The value of a message from ``Channel.send_json``; closes the descriptor, if there is one.

    Raises:
        ValueError: It is not such a message, or too long.
    """
    if descriptor < 0:
        return json.loads(fields)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        text = file.read(_MAX_JSON_BYTES + 1)
    if len(text) > _MAX_JSON_BYTES:
        raise ValueError(f"a message has more than {_MAX_JSON_BYTES} bytes")
    return json.loads(text)


def sealed_memory(name: str, content: bytes = b"", size: int | None = None) -> int:
    """The descriptor of a file in memory of a fixed size, which nobody can truncate while another process maps it.

    Args:
        name: For ``/proc``.
        content: First bytes.
        size: Bytes in all, zeros beyond ``content``; those of ``content`` if not given.
    """
    descriptor = os.memfd_create(f"ecenet-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, len(content) if size is None else size)
        if content:
            os.pwrite(descriptor, content, 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_sealed(descriptor: int, size: int) -> None:
    """Raises ``ValueError`` unless a descriptor is from ``sealed_memory`` and has ``size`` bytes."""
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ValueError("a descriptor is not a file in memory") from error
    found = os.fstat(descriptor).st_size
    if seals & _SEALS != _SEALS or found != size:
        raise ValueError(f"a file in memory has {found} bytes and seals {seals}, expected {size} and {_SEALS}")


def _descriptor_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The descriptor that came with a packet, or -1."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(data) >= _DESCRIPTOR.size:
            return int(_DESCRIPTOR.unpack_from(data)[0])
    return -1


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
