"""The files of finished runs: one JSON each, written once and whole; a lock keeps two processes off the same run."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "comparison"
RATES_FOLDER = Path(__file__).parent / "rates"
SPEED = Path(__file__).parent / "speed.json"


class RunError(ValueError):
    """A file of a run that is broken, or that holds another configuration than the one asked for."""


def run_path(folder: Path, variant: str, seed: int) -> Path:
    """Path of a run."""
    return folder / f"{variant}-seed{seed}.json"


def is_finished(path: Path, config: dict[str, Any]) -> bool:
    """Check whether a file holds a finished run of this configuration.

    Raises:
        RunError: The file holds another configuration; the text names what differs.
    """
    if not path.exists():
        return False
    stored = read_run(path)["config"]
    keys = sorted(key for key in {*stored, *config} if stored.get(key) != config.get(key))
    if keys:
        differences = ", ".join(f"{key} {stored.get(key)!r}, now {config.get(key)!r}" for key in keys)
        raise RunError(f"{path} holds a run of another configuration ({differences}); move it away or name a --folder")
    return True


def read_run(path: Path) -> dict[str, Any]:
    """A finished run.

    Raises:
        RunError: No file of a run.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise RunError(f"{path} is not a file of a run: it has no configuration")
    return content


def write_run(path: Path, content: dict[str, Any]) -> None:
    """Write a finished run; a reader sees nothing or the whole file."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Claim a run; gives whether no other process has it. The system frees the claim of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    with name.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            name.unlink(missing_ok=True)
