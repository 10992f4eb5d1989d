"""Triton by PyTriton: Triton's HTTP server and batcher in front of one Python process with all stages.

python -m benchmarks.peers.servers.with_pytriton PORT
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.work import WINDOW_S, Work
from service.engines.cpus import available_cpus


def main() -> None:
    """Serve until a signal."""
    work = Work()
    _ = work.engine
    pool = ThreadPoolExecutor(available_cpus())

    @batch
    def segment(image: NDArray[np.bytes_]) -> dict[str, NDArray[np.bytes_]]:
        prepared = list(pool.map(work.prepare, image[:, 0]))
        logits = work.infer([each.image for each in prepared])
        files = pool.map(lambda row, each: work.finish(row, each.size), logits, prepared)
        return {"labels": np.array([[file] for file in files], dtype=object)}

    config = TritonConfig(
        http_address="127.0.0.1", http_port=int(sys.argv[1]), allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="ecenet",
            infer_func=segment,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="labels", dtype=bytes, shape=(1,))],
            config=ModelConfig(
                max_batch_size=work.max_batch_size,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(1e6 * WINDOW_S)),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
