"""Help for the first minute: a command to try, and the process that holds a port in use."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

_EXAMPLE = Path(__file__).parent / "page" / "static" / "examples" / "street.jpg"
# State of a listening socket in Linux's tables of TCP.
_LISTENS = "0A"


def example_command(url: str) -> str:
    """A ``curl`` that segments the street of the page, which every installation has."""
    picture = _EXAMPLE.relative_to(Path.cwd()) if _EXAMPLE.is_relative_to(Path.cwd()) else _EXAMPLE
    return f"curl -F {shlex.quote(f'file=@{picture}')} '{url}/segment?format=overlay' -o overlay.png"


def taken_port(port: int, proc: Path = Path("/proc")) -> str:
    """Name the process that holds a port, as far as this user may know it, and say how to choose another.

    Args:
        port: The port.
        proc: Where the system lists its processes; elsewhere than on Linux there is no such folder.
    """
    holder = next(_holders(port, proc), "another process")
    return f"{holder} listens there; choose another with --port {min(port + 1, 65535)}, or a free one with --port 0"


def _holders(port: int, proc: Path) -> Iterator[str]:
    """Name and number of each process with a listening socket on a port."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _inodes(port, proc / "net" / table)}
    processes = sorted((path for path in proc.glob("[0-9]*")), key=lambda path: int(path.name)) if sockets else []
    for process in processes:
        if not sockets.isdisjoint(_targets(process / "fd")):
            yield f"process {process.name} ({_name(process)})"


def _inodes(port: int, table: Path) -> Iterator[str]:
    lines = table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else []
    for fields in map(str.split, lines):
        if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _targets(folder: Path) -> Iterator[str]:
    """Targets of the open files of a process; nothing for one that has ended or is another user's."""
    try:
        links = list(folder.iterdir())
    except OSError:
        return
    for link in links:
        try:
            yield str(link.readlink())
        except OSError:
            continue


def _name(process: Path) -> str:
    """The command line of a process, without its end where it is long."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").strip("\0").split("\0")
    line = " ".join(words)
    return line if len(line) <= 60 else f"{line[:59]}…"
