"""Containers without Docker: network namespaces on a bridge, where an address that is gone answers nothing.

The bridge is in a namespace of its own, so that the machine's network stays as it is. Needs root and iproute2.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_SUBNET = "10.213.7"


class Network:
    """A bridge with containers, numbered from 1.

    Attributes:
        namespace: The namespace of the bridge, from which every container can be reached.
    """

    def __init__(self, containers: int) -> None:
        self._name = f"ecenet-{os.getpid()}"
        self.namespace = f"{self._name}-0"
        self._numbers = range(1, containers + 1)

    def address(self, container: int) -> str:
        """The address of a container."""
        return f"{_SUBNET}.{10 + container}"

    def enter(self, container: int) -> tuple[str, ...]:
        """Words before a command that run it in a container."""
        return ("ip", "netns", "exec", f"{self._name}-{container}")

    def connect(self, container: int) -> None:
        """Give a container its address."""
        inside = f"{self._name}-{container}"
        _ip("-n", self.namespace, "link", "add", f"port{container}", "type", "veth", "peer", "eth0", "netns", inside)
        _ip("-n", self.namespace, "link", "set", f"port{container}", "master", "bridge", "up")
        # As Docker's containers have it: the same each time, or neighbours would go on with the one that they remember.
        _ip("-n", inside, "link", "set", "eth0", "address", f"02:42:0a:d5:07:{10 + container:02x}")
        _ip("-n", inside, "address", "add", f"{self.address(container)}/24", "dev", "eth0")
        _ip("-n", inside, "link", "set", "eth0", "up")

    def cut(self, container: int) -> None:
        """Take a container's address away; what is sent there is lost, and nothing says so."""
        _ip("-n", self.namespace, "link", "delete", f"port{container}")

    def build(self) -> None:
        """Make all namespaces."""
        for number in (0, *self._numbers):
            _ip("netns", "add", f"{self._name}-{number}")
            _ip("-n", f"{self._name}-{number}", "link", "set", "lo", "up")
        _ip("-n", self.namespace, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.namespace, "address", "add", f"{_SUBNET}.1/24", "dev", "bridge")
        _ip("-n", self.namespace, "link", "set", "bridge", "up")
        for number in self._numbers:
            self.connect(number)

    def remove(self) -> None:
        """Remove those that were made."""
        for number in (0, *self._numbers):
            subprocess.run(["ip", "netns", "delete", f"{self._name}-{number}"], capture_output=True, check=False)


@contextmanager
def network(containers: int) -> Iterator[Network]:
    """A network, which is gone afterwards."""
    made = Network(containers)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
