"""Times of engines that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping

from service.engines.base import Engine
from service.engines.options import EngineOptions
from service.engines.trial import Timing

OPTIONS = EngineOptions(num_threads=2, num_streams=2, measure=True)
PRODUCTS = {"onnxruntime fp32": 9.0, "openvino fp32": 4.0, "openvino bf16": 25.0}


class Stopwatch:
    """Times that a test chooses, by runtime and precision; remembers what was timed."""

    def __init__(self, milliseconds: Mapping[str, float] = PRODUCTS, num_streams: int = 1) -> None:
        self.milliseconds = milliseconds
        self.num_streams = num_streams
        self.timed: list[str] = []

    def __call__(self, engine: Engine) -> Timing:
        name = f"{engine.name} {engine.graph.precision}"
        self.timed.append(name)
        return Timing(self.milliseconds[name], self.milliseconds[name] / self.num_streams, self.num_streams)
