"""A name server for one name, as Docker's: all addresses of the replicas that are there."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_A = 1


class NameServer:
    """Answers on a UDP port of the loopback.

    Attributes:
        addresses: What it says, whatever the question; may be changed at any time.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))

    @property
    def address(self) -> str:
        """Host and port."""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def serve(self) -> None:
        """Answer until a datagram without content comes."""
        with self._socket:
            while True:
                query, sender = self._socket.recvfrom(4096)
                if not query:
                    return
                self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        """All addresses to a question for A, none to one for AAAA (RFC 1035, 4.1)."""
        end = query.index(0, 12) + 5
        question = query[12:end]
        addresses = self.addresses if struct.unpack("!H", question[-4:-2])[0] == _A else []
        head = query[:2] + struct.pack("!5H", 0x8180, 1, len(addresses), 0, 0)
        # The name is a pointer to the question's; valid for a second.
        records = [struct.pack("!3HIH", 0xC00C, _A, 1, 1, 4) + socket.inet_aton(address) for address in addresses]
        return head + question + b"".join(records)


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[NameServer]:
    """A name server that runs meanwhile."""
    server = NameServer(addresses)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        host, _, port = server.address.partition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", (host, int(port)))
        thread.join()
