"""Ray Serve: replicas that decode and encode in front of one with the engine, which batches.

python -m benchmarks.peers.servers.with_ray PORT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.work import WINDOW_S, BrokenImageError, Work
from service.engines.cpus import available_cpus


@serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class EngineDeployment:
    """Images to logits."""

    def __init__(self, engine_name: str) -> None:
        self._work = Work(engine_name)
        _ = self._work.engine
        self.infer.set_max_batch_size(self._work.max_batch_size)  # type: ignore[attr-defined]

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=WINDOW_S)
    async def infer(self, images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(await asyncio.to_thread(self._work.infer, images))


@serve.deployment(num_replicas=available_cpus(), max_ongoing_requests=64, ray_actor_options={"num_cpus": 0})
class Segmenter:
    """Bytes to a PNG."""

    def __init__(self, engine_name: str, engine: DeploymentHandle) -> None:
        self._work = Work(engine_name)
        self._engine = engine

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        try:
            prepared = await asyncio.to_thread(self._work.prepare, body)
        except BrokenImageError as error:
            return Response(str(error), status_code=400)
        logits = await self._engine.infer.remote(prepared.image)
        png = await asyncio.to_thread(self._work.finish, logits, prepared.size)
        return Response(png, media_type="image/png")


def main(engine_name: str) -> None:
    """Serve until a signal."""
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1]), "request_timeout_s": 60})
    segmenter: Any = Segmenter
    engine: Any = EngineDeployment
    serve.run(segmenter.bind(engine_name, engine.bind(engine_name)), route_prefix="/segment")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main(os.environ["PEERS_ENGINE"])
