"""mosec: two processes that decode, one with the engine, two that encode, and a server in Rust.

python -m benchmarks.peers.servers.with_mosec --port PORT
"""

from __future__ import annotations

from typing import Any

from mosec import Server, ValidationError, Worker

from benchmarks.peers.work import WINDOW_S, BrokenImageError, Prepared, Work
from service.engines.cpus import available_cpus


class Prepare(Worker):
    """Bytes to arrays."""

    def __init__(self) -> None:
        self._work = Work()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Prepared:
        try:
            return self._work.prepare(data)
        except BrokenImageError as error:
            raise ValidationError(str(error)) from error


class Infer(Worker):
    """Arrays to logits."""

    def __init__(self) -> None:
        self._work = Work()
        _ = self._work.engine

    def forward(self, data: Any) -> Any:
        prepared = data if isinstance(data, list) else [data]
        logits = self._work.infer([each.image for each in prepared])
        results = [(row, each.size) for row, each in zip(logits, prepared, strict=True)]
        return results if isinstance(data, list) else results[0]


class Finish(Worker):
    """Logits to a PNG."""

    resp_mime_type = "image/png"

    def __init__(self) -> None:
        self._work = Work()

    def forward(self, data: Any) -> bytes:
        logits, size = data
        return self._work.finish(logits, size)

    def serialize(self, data: bytes) -> bytes:
        return data


def main() -> None:
    """Serve until a signal."""
    server = Server()
    server.append_worker(Prepare, num=available_cpus())
    server.append_worker(Infer, num=1, max_batch_size=Work().max_batch_size, max_wait_time=round(1000 * WINDOW_S))
    server.append_worker(Finish, num=available_cpus())
    server.run()


if __name__ == "__main__":
    main()
