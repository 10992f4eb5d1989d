"""LitServe: decoding, engine and encoding in the loop of one worker process, which owns the engine.

python -m benchmarks.peers.servers.with_litserve PORT
"""

# No postponed annotations: LitServe compares that of ``decode_request`` with the class.
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import HTTPException, Request, Response
from numpy.typing import NDArray

from benchmarks.peers.work import WINDOW_S, BrokenImageError, Prepared, Work


class Api(litserve.LitAPI):
    """Stages of a batch."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self.work = Work()
        self.work.infer([np.zeros((*self.work.manifest.graph.input_size, 3), np.uint8)])

    def decode_request(self, request: Request) -> Prepared:
        try:
            return self.work.prepare(request["file"].file.read())  # type: ignore[index]
        except BrokenImageError as error:
            raise HTTPException(400, str(error)) from error

    def batch(self, inputs: list[Prepared]) -> list[Prepared]:
        return inputs

    def predict(self, x: Any) -> list[tuple[NDArray[np.float32], tuple[int, int]]]:
        prepared = x if isinstance(x, list) else [x]
        logits = self.work.infer([each.image for each in prepared])
        return [(row, each.size) for row, each in zip(logits, prepared, strict=True)]

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Response:
        ((logits, size),) = output if isinstance(output, list) else [output]
        return Response(self.work.finish(logits, size), media_type="image/png")


def main() -> None:
    """Serve until a signal."""
    api = Api(max_batch_size=Work().max_batch_size, batch_timeout=WINDOW_S)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
