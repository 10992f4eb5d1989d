"""Pods of a training as network namespaces: a peer, and two pods 0 that its resolver finds under one name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

NAME, PORT = "ecenet-train-0.ecenet-train", 29500
ADDRESSES = {"old": "10.77.0.1", "new": "10.77.0.5"}
_PEER_SIDE = {"old": "10.77.0.2", "new": "10.77.0.6"}
SERVE = f"""
import datetime, sys, torch.distributed as dist
patience = datetime.timedelta(seconds=20)
store = dist.TCPStore("localhost", {PORT}, is_master=True, timeout=patience, wait_for_workers=False)
store.set("pod", sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""
ASK = f"""
import datetime, sys, torch.distributed as dist
patience = datetime.timedelta(seconds=20)
store = dist.TCPStore({NAME!r}, {PORT}, is_master=False, timeout=patience, wait_for_workers=False)
print("reached", store.get("pod").decode(), flush=True)
if sys.argv[1:]:
    store.get(sys.argv[1])
"""


@dataclass(slots=True)
class Network:
    """Three namespaces: ``old`` and ``new`` are pods 0, ``peer`` is another pod that reaches both.

    Attributes:
        prefix: Start of the namespaces' names on this machine.
        running: Processes that have not been ended.
    """

    prefix: str
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def resolves(self, *pods: str) -> None:
        """The addresses of pod 0 by the peer's resolver, in this order."""
        lines = ["127.0.0.1 localhost", *(f"{ADDRESSES[pod]} {NAME}" for pod in pods)]
        (self._hosts("peer") / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self, pod: str, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """A process of a pod, which ``closed`` ends at the latest."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.prefix + pod, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.running.append(process)
        return process

    def serve(self, pod: str) -> subprocess.Popen[str]:
        """The store of a pod 0, which is ready."""
        process = self.start(pod, [sys.executable, "-c", SERVE, pod])
        said(process, "ready")
        return process

    def ask(self, *key: str) -> subprocess.Popen[str]:
        """A peer that asks the store which pod it is of, and waits for a key if one is named."""
        return self.start("peer", [sys.executable, "-c", ASK, *key])

    def unplug(self, pod: str) -> None:
        """Takes a pod's network away, as a lost node does."""
        _ip("-n", self.prefix + pod, "link", "set", "eth0", "down")

    def _hosts(self, pod: str) -> Path:
        return Path("/etc/netns") / (self.prefix + pod)

    def _make(self) -> None:
        for pod in ("peer", "old", "new"):
            _ip("netns", "add", self.prefix + pod)
            _ip("-n", self.prefix + pod, "link", "set", "lo", "up")
            self._hosts(pod).mkdir(parents=True)
        self.resolves("new")
        for pod, address in ADDRESSES.items():
            ends = (("eth0", pod, address), (f"to-{pod}", "peer", _PEER_SIDE[pod]))
            (link, home, _), (other, peer, _) = ends
            _ip(
                "-n",
                self.prefix + home,
                "link",
                "add",
                link,
                "type",
                "veth",
                "peer",
                other,
                "netns",
                self.prefix + peer,
            )
            for name, where, own in ends:
                _ip("-n", self.prefix + where, "address", "add", f"{own}/30", "dev", name)
                _ip("-n", self.prefix + where, "link", "set", name, "up")

    def _remove(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()
        for pod in ("peer", "old", "new"):
            subprocess.run(["ip", "netns", "delete", self.prefix + pod], check=False, capture_output=True)
            shutil.rmtree(self._hosts(pod), ignore_errors=True)


def said(process: subprocess.Popen[str], line: str) -> None:
    """Reads on to a line, past warnings of sockets without a host name."""
    assert process.stdout is not None
    before = []
    for read in process.stdout:
        if read.strip() == line:
            return
        before.append(read)
    raise AssertionError(f"{line!r} is not in {before}")


@contextmanager
def network() -> Iterator[Network]:
    """The namespaces, gone with their processes afterwards."""
    made = Network(f"ecenet-{os.getpid()}-")
    try:
        made._make()
        yield made
    finally:
        made._remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
