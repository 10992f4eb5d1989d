"""Machines with and without a GPU, and programs that a build may be."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

from service.engines.tensorrt import build_at_start as build
from service.model_directory.machine import EngineRuntime, Machine, MachineError, RuntimeMissingError

L4 = Machine("tensorrt", "10.14", "L4", "8.9", "13.0")
NO_DRIVER = MachineError("there is no usable NVIDIA GPU: cudaGetDeviceCount gave cudaErrorInsufficientDriver")
NOT_INSTALLED = RuntimeMissingError("tensorrt is not installed: pip install '.[gpu]'")


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def detector(**faults: MachineError | None) -> Callable[[EngineRuntime], Machine]:
    """Detects a GPU for the runtimes without a fault; names have _ in place of -."""

    def detect(runtime: EngineRuntime) -> Machine:
        fault = faults[runtime.replace("-", "_")]
        if fault is not None:
            raise fault
        return replace(L4, runtime=runtime)

    return detect


class Awaited(logging.Handler):
    """Tells when a message has been logged that begins with a text."""

    def __init__(self, begin: str) -> None:
        super().__init__()
        self.came = threading.Event()
        self._begin = begin

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self._begin):
            self.came.set()

    def __enter__(self) -> threading.Event:
        build.logger.addHandler(self)
        return self.came

    def __exit__(self, *_: object) -> None:
        build.logger.removeHandler(self)
