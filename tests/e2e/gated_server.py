"""The real server around an engine that a test holds by its pipes.

Before each batch it prints ``batch <size>`` and waits for a byte on standard input. Arguments are those of the service.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.manifest import ClassInfo, GraphInfo, Manifest
from service.__main__ import leave
from service.app import create_app
from service.server import Server, bind
from service.settings import read_settings

CLASSES = (ClassInfo(0, "dark", (10, 20, 30)), ClassInfo(1, "bright", (70, 80, 90)))
MANIFEST = Manifest("gated", "1", "none", CLASSES, (GraphInfo("model.onnx", "0" * 64, (32, 64)),))


class GatedEngine:
    name = "gated"
    graph = MANIFEST.graph
    num_classes = 2
    max_batch_size = 8
    warm_up_sizes = ()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sys.stdout.write(f"batch {len(images)}\n")
        sys.stdout.flush()
        sys.stdin.buffer.read(1)
        return np.zeros((len(images), 2, 8, 16), np.float32)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    assert Path("service").is_dir(), "started in the root of the repository"
    settings = read_settings()
    app = create_app(settings, GatedEngine(), MANIFEST)
    leave(Server(app, bind(settings.host, settings.port)).serve_until_signal())
