"""The shipped configurations with a test's addresses, ports and paths in place of Docker's; nothing else changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

DOCKER = Path(__file__).resolve().parents[2] / "docker"
NGINX = DOCKER / "nginx.conf"
HAPROXY = DOCKER / "haproxy.cfg"

# Of the place to listen and of a folder to write to, the text.
Configure = Callable[[str, Path], str]


def nginx_of(replicas: Sequence[str]) -> Configure:
    """nginx in front of replicas at fixed addresses, which need no DNS."""

    def configure(listen: str, folder: Path) -> str:
        text = _nginx(NGINX.read_text(encoding="utf-8"), listen, folder)
        return _repeat(text, r"server ecenet:8000 resolve (?P<rest>.*)", "server {replica} {rest}", replicas)

    return configure


def nginx_by_dns(nameserver: str, port: int) -> Configure:
    """nginx in front of whatever a name server says; nginx 1.27.3 or newer."""

    def configure(listen: str, folder: Path) -> str:
        text = _nginx(NGINX.read_text(encoding="utf-8"), listen, folder)
        text = replace_text(text, "resolver 127.0.0.11 ", f"resolver {nameserver} ")
        return replace_text(text, "server ecenet:8000 ", f"server ecenet:{port} ")

    return configure


def haproxy_of(replicas: Sequence[str]) -> Configure:
    """HAProxy in front of replicas at fixed addresses, which need no DNS."""

    def configure(listen: str, folder: Path) -> str:
        text = replace_text(HAPROXY.read_text(encoding="utf-8"), "bind :8080\n", f"bind {_haproxy_address(listen)}\n")
        template = r"server-template replica \d+ ecenet:8000 resolvers docker .*(?P<rest>)"
        return _repeat(text, template, "server replica{number} {replica}{rest}", replicas)

    return configure


def haproxy_by_dns(nameserver: str, port: int) -> Configure:
    """HAProxy in front of whatever a name server says."""

    def configure(listen: str, folder: Path) -> str:
        text = replace_text(HAPROXY.read_text(encoding="utf-8"), "bind :8080\n", f"bind {_haproxy_address(listen)}\n")
        text = replace_text(text, "nameserver docker 127.0.0.11:53", f"nameserver docker {nameserver}")
        return replace_text(text, " ecenet:8000 ", f" ecenet:{port} ")

    return configure


def _nginx(text: str, listen: str, folder: Path) -> str:
    text = replace_text(text, "listen 8080;", f"listen {listen};")
    return replace_text(text, " /tmp/nginx", f" {folder}/nginx", times=6)


def _haproxy_address(listen: str) -> str:
    return listen.replace("unix:", "unix@")


def replace_text(text: str, old: str, new: str, times: int = 1) -> str:
    """Replace ``old``, which must be there ``times`` times.

    Raises:
        ValueError: It is not; the shipped file has changed.
    """
    if text.count(old) != times:
        raise ValueError(f"{old!r} is there {text.count(old)} times, expected {times}")
    return text.replace(old, new)


def _repeat(text: str, pattern: str, template: str, replicas: Sequence[str]) -> str:
    """Write the one line that matches once per replica.

    Raises:
        ValueError: Not exactly one line matches; the shipped file has changed.
    """
    matches = list(re.finditer(rf"^(?P<indent> *){pattern}$", text, re.MULTILINE))
    if len(matches) != 1:
        raise ValueError(f"{len(matches)} lines match {pattern!r}, expected one")
    (match,) = matches
    lines = [
        match["indent"] + template.format(replica=replica, number=number, rest=match["rest"])
        for number, replica in enumerate(replicas, 1)
    ]
    return text[: match.start()] + "\n".join(lines) + text[match.end() :]
