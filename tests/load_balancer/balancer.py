"""A real nginx or HAProxy, run by the shipped configuration."""

from __future__ import annotations

import getpass
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.load_balancer.patience import until
from tests.load_balancer.shipped import Configure, haproxy_of, nginx_of

Kind = Literal["nginx", "haproxy"]
KINDS: tuple[Kind, ...] = ("nginx", "haproxy")
_PORTS = itertools.count(20_000 + os.getpid() % 8_000)


@dataclass(frozen=True, slots=True)
class Entry:
    """A request in the balancer's log.

    Attributes:
        request_id: The client's, or the balancer's.
        status: Of the answer to the client.
        tries: Replicas that were asked.
        replica: The last of them.
        is_unreached: Whether the balancer answered itself, as that one did not take the connection, or there was none.
    """

    request_id: str
    status: int
    tries: int
    replica: str
    is_unreached: bool


@dataclass(frozen=True, slots=True)
class Balancer:
    """A running balancer.

    Attributes:
        kind: Which one.
        address: Where it listens: host and port, or the path of a Unix socket.
        log: What it says.
    """

    kind: Kind
    address: tuple[str, int] | str
    log: Path

    @property
    def url(self) -> str:
        assert not isinstance(self.address, str)
        return f"http://{self.address[0]}:{self.address[1]}"

    def connect(self) -> socket.socket:
        """A new connection."""
        if not isinstance(self.address, str):
            return socket.create_connection(self.address, timeout=60)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection

    def entries(self) -> list[Entry]:
        """Logged requests for images."""
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        read = _nginx_entry if self.kind == "nginx" else _haproxy_entry
        return [read(entry) for entry in logged if entry["path"].startswith("/segment")]

    def entries_of(self, requests: int) -> list[Entry]:
        """Logged requests for images, once so many were answered.

        HAProxy drops a line rather than let one of its threads wait for another that writes: one in some thousands.
        """
        dropped = 1 + requests // 100 if self.kind == "haproxy" else 0
        until(lambda: len(self.entries()) >= requests - dropped, "all are logged")
        entries = self.entries()
        assert len({entry.request_id for entry in entries}) == len(entries) <= requests
        return entries

    def answered_by(self, address: str) -> int:
        """Requests that a replica has answered, or was the last to be asked for."""
        return sum(entry.replica == address for entry in self.entries())


def configuration_of(kind: Kind, replicas: Sequence[str]) -> Configure:
    """The shipped configuration in front of replicas at fixed addresses."""
    return nginx_of(replicas) if kind == "nginx" else haproxy_of(replicas)


@contextmanager
def running(kind: Kind, configure: Configure, folder: Path, *, in_namespace: str = "") -> Iterator[Balancer]:
    """Run a balancer, on a free port of the loopback, or on a Unix socket from within a network namespace."""
    folder.mkdir()
    address = str(folder / "clients") if in_namespace else ("127.0.0.1", free_port())
    listen = f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
    configuration, log = folder / f"{kind}.conf", folder / "log"
    configuration.write_text(configure(listen, folder), encoding="utf-8")
    enter = ("ip", "netns", "exec", in_namespace) if in_namespace else ()
    with log.open("ab") as stream:
        popen = subprocess.Popen([*enter, *command(kind, configuration)], stdout=stream, stderr=stream)
    try:
        balancer = Balancer(kind, address, log)
        until(lambda: _listens(balancer), f"{kind} listens: {log}")
        yield balancer
    finally:
        # nginx's first process ends its workers on SIGTERM only.
        popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            popen.wait(10)
        popen.kill()
        popen.wait()


def command(kind: Kind, configuration: Path, *, check: bool = False) -> list[str]:
    """The command that runs a balancer, or only reads its configuration."""
    if kind == "haproxy":
        return ["haproxy", *(("-c",) if check else ("-db",)), "-f", str(configuration)]
    # The user of the temporary folders; Debian's nginx would take another one for its workers.
    directives = f"daemon off; user {getpass.getuser()};"
    return ["nginx", *(("-t",) if check else ()), "-e", "/dev/stderr", "-g", directives, "-c", str(configuration)]


def free_port() -> int:
    """A TCP port of the loopback that is free now, and that no connection will take: those have higher ones."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("the ports have an end")


def _listens(balancer: Balancer) -> bool:
    try:
        balancer.connect().close()
    except (ConnectionError, FileNotFoundError):
        return False
    return True


def _nginx_entry(line: dict[str, Any]) -> Entry:
    replicas = line["replicas"].split(", ")
    is_unreached = line["statuses"].split(", ")[-1] in {"502", "504"}
    return Entry(line["request_id"], line["status"], len(replicas), replicas[-1], is_unreached)


def _haproxy_entry(line: dict[str, Any]) -> Entry:
    tries = 1 + int(line["retries"].lstrip("+"))
    # The second letter of the termination state is where the session ended: C while it connected to a server.
    return Entry(line["request_id"], line["status"], tries, line["replica"], line["end"][1] == "C")
