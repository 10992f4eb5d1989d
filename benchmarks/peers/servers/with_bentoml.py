"""BentoML: processes that decode and encode in front of one with the engine, which batches.

python -m benchmarks.peers.servers.with_bentoml PORT
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from numpy.typing import NDArray

from benchmarks.peers.work import BrokenImageError, Work, max_batch_size
from service.engines.cpus import available_cpus

app = FastAPI()
# BentoML imports this module once without the variable, to look at it.
MAX_BATCH_SIZE = max_batch_size(os.environ.get("PEERS_ENGINE", "sleeping"))


@bentoml.service(workers=1, traffic={"timeout": 60})
class EngineService:
    """Images to logits."""

    def __init__(self) -> None:
        self._work = Work()
        _ = self._work.engine

    @bentoml.api(
        batchable=MAX_BATCH_SIZE > 1,
        max_batch_size=max(2, MAX_BATCH_SIZE),
        # It refuses requests that it expects to take longer, and chooses how long it waits for more images.
        max_latency_ms=60_000,
    )
    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._work.infer(list(images))


@bentoml.service(workers=available_cpus(), traffic={"timeout": 60})
@bentoml.asgi_app(app, path="/")
class Segmenter:
    """Bytes to a PNG."""

    engine = bentoml.depends(EngineService)

    def __init__(self) -> None:
        self._work = Work()

    @app.post("/segment")
    async def segment(self, request: Request) -> Response:
        body = await request.body()
        try:
            prepared = await asyncio.to_thread(self._work.prepare, body)
        except BrokenImageError as error:
            raise HTTPException(400, str(error)) from error
        logits = await self.engine.to_async.infer(prepared.image[None])
        png = await asyncio.to_thread(self._work.finish, logits[0], prepared.size)
        return Response(png, media_type="image/png")


def main() -> None:
    """Serve until a signal."""
    command = Path(sys.executable).with_name("bentoml")
    target = f"{__spec__.name}:Segmenter"
    os.execv(command, [str(command), "serve", target, "--host", "127.0.0.1", "--port", sys.argv[1]])


if __name__ == "__main__":
    main()
