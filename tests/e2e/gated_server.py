"""The real server around an engine that a test holds by its pipes.

Before each batch it prints ``batch <size>`` and waits for a byte on standard input. ``GATED_FUNCTION`` names a function
of ``service.inference.pipeline`` that does likewise: it prints its name and waits. With ``GATED_LOAD`` a load runs a
batch too.
Arguments are those of the service.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.__main__ import leave
from service.banner import bind
from service.command_line import read_settings
from service.inference import pipeline
from service.model_directory.manifest import ClassInfo, GraphInfo, Manifest
from service.models.source import GivenModel
from service.processes import serve

CLASSES = (ClassInfo(0, "dark", (10, 20, 30)), ClassInfo(1, "bright", (70, 80, 90)))
MANIFEST = Manifest("gated", "1", "none", CLASSES, (GraphInfo("model.onnx", "0" * 64, (32, 64)),))


def wait_for_a_byte(message: str) -> None:
    sys.stdout.write(message + "\n")
    sys.stdout.flush()
    os.read(sys.stdin.fileno(), 1)


def gate(name: str) -> None:
    """Make a function of the pipeline wait for a byte."""
    function: Callable[..., Any] = getattr(pipeline, name)

    def gated(*arguments: Any, **options: Any) -> Any:
        wait_for_a_byte(name)
        return function(*arguments, **options)

    setattr(pipeline, name, gated)


class GatedEngine:
    name = "gated"
    graph = MANIFEST.graph
    num_classes = 2
    max_batch_size = 8
    warm_up_sizes = (1,) if "GATED_LOAD" in os.environ else ()

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        wait_for_a_byte(f"batch {len(images)}")
        return np.zeros((len(images), 2, 8, 16), np.float32)

    def close(self) -> None:
        pass


if __name__ == "__main__":
    assert Path("service").is_dir(), "started in the root of the repository"
    if "GATED_FUNCTION" in os.environ:
        gate(os.environ["GATED_FUNCTION"])
    settings = read_settings()
    leave(*serve(settings, lambda: GivenModel(GatedEngine(), MANIFEST), bind(settings.host, settings.port)))
