"""TensorRT's messages in our log; its errors also in our exceptions, as its calls give no reason but None or False."""

from __future__ import annotations

import functools
import logging
from collections import deque
from typing import Any

from service.model_directory.machine import EngineRuntime, runtime_module

logger = logging.getLogger(__name__)


@functools.cache
def tensorrt_logger(runtime: EngineRuntime) -> Any:
    """The logger of a runtime, an ``ILogger`` with ``take_errors``: one per process, as TensorRT keeps the first.

    Raises:
        MachineError: The runtime is not installed.
    """
    trt = runtime_module(runtime)
    severity = trt.ILogger.Severity
    # TensorRT's information helps to find a fault. VERBOSE, thousands of lines, is left out.
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
    }

    base: Any = trt.ILogger

    class Logger(base):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            super().__init__()
            self._errors: deque[str] = deque(maxlen=4)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any thread."""
            level = levels.get(severity)
            if level is None:
                return
            logger.log(level, "%s: %s", runtime, msg)
            if level == logging.ERROR:
                self._errors.append(msg)

        def take_errors(self) -> str:
            """The errors since the last call, as part of a sentence."""
            errors = list(self._errors)
            self._errors.clear()
            return "; ".join(errors) or "it gave no reason"

    return Logger()
