"""Graphs as a runtime has compiled them, kept for the next start: compilers take most of the time of a load.

Such a graph suits one version of its runtime and one processor, whose instructions decide on layouts and kernels; the
name of its file stands for both. A file holds the SHA-256 of its content before it, so that damage is found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from service.engines.processor import processor
from service.model_directory.files import write_whole
from service.model_directory.manifest import GraphInfo

logger = logging.getLogger(__name__)

# In the folder of what is kept for the next start.
GRAPH_FOLDER = "graphs"
# Part of the file's name; counts the changes of the options that a runtime compiles with.
_FORMAT = 1
_DIGEST_BYTES = hashlib.sha256().digest_size
# Of all files of the folder. The five graphs that are measured for the bundled model have 50 MB.
_MAX_FOLDER_BYTES = 512 << 20


class KeptGraph:
    """The file of a compiled graph, which may not exist.

    Attributes:
        path: The file.
    """

    def __init__(self, folder: Path, graph: GraphInfo, runtime: str, version: str) -> None:
        """Name the file.

        Args:
            folder: Of all compiled graphs; made if need be.
            graph: The graph that is compiled.
            runtime: The runtime that compiles it.
            version: The runtime's.
        """
        facts = [_FORMAT, runtime, version, processor(), graph.sha256, graph.precision]
        self.path = folder / f"{runtime}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"
        self._compiled: bytes | None = None

    @property
    def is_writable(self) -> bool:
        """False in a folder that is read-only: to give a compiled graph to ``write`` would cost time for nothing."""
        return os.access(next(folder for folder in self.path.parents if folder.exists()), os.W_OK)

    def read(self) -> bytes | None:
        """The compiled graph, or None; a damaged file causes a warning. A good file is read once."""
        if self._compiled is None:
            self._compiled = self._read()
        return self._compiled

    def _read(self) -> bytes | None:
        try:
            with self.path.open("rb") as file:  # in two reads: a slice would be a second copy
                digest, compiled = file.read(_DIGEST_BYTES), file.read(_MAX_FOLDER_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.reject(str(error))
            return None
        if hashlib.sha256(compiled).digest() != digest:
            self.reject("it is damaged")
            return None
        with suppress(OSError):  # the oldest files are the first to go
            os.utime(self.path)
        return compiled

    def reject(self, reason: str) -> None:
        """Log that the file cannot be used, and drop what was read of it."""
        self._compiled = None
        logger.warning("%s cannot be used, so the graph is compiled again: %s", self.path, reason)

    def write(self, compiled: bytes) -> None:
        """Keep a compiled graph, and remove the oldest ones beyond 512 MiB in all; a failure causes a warning."""
        content = hashlib.sha256(compiled).digest() + compiled
        folder = self.path.parent
        if len(content) > _MAX_FOLDER_BYTES:
            return
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_room(folder, len(content))
            write_whole(self.path, content)
        except OSError as error:
            logger.warning("the compiled graph cannot be kept, so the next start compiles again: %s", error)


def _make_room(folder: Path, size: int) -> None:
    """Remove the oldest files until ``size`` more bytes fit."""
    files = [(path.stat(), path) for path in folder.iterdir() if path.is_file()]
    kept = sorted(files, key=lambda file: file[0].st_mtime, reverse=True)
    for status, path in kept:
        size += status.st_size
        if size > _MAX_FOLDER_BYTES:
            path.unlink(missing_ok=True)
