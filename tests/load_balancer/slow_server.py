"""The real server, whose engine waits for ``SLOW_S`` seconds before each batch."""

from __future__ import annotations

import os
import time

import numpy as np
from numpy.typing import NDArray

from service.__main__ import main
from service.engines.base import Rows
from service.engines.onnxruntime_engine import OnnxRuntimeEngine

infer = OnnxRuntimeEngine.infer


def infer_slowly(engine: OnnxRuntimeEngine, images: NDArray[np.uint8]) -> Rows:
    time.sleep(float(os.environ["SLOW_S"]))
    return infer(engine, images)


if __name__ == "__main__":
    OnnxRuntimeEngine.infer = infer_slowly  # type: ignore[assignment, method-assign]
    main()
