"""TensorRT's messages reach the log by their severity, and its errors the next exception."""

from __future__ import annotations

import logging

import pytest

from service.engines.tensorrt import log as tensorrt_log

trt = pytest.importorskip("tensorrt_rtx")


def test_messages_are_logged_by_their_severity(caplog: pytest.LogCaptureFixture) -> None:
    logger = tensorrt_log.tensorrt_logger("tensorrt-rtx")
    severity = trt.ILogger.Severity
    logger.take_errors()
    with caplog.at_level(logging.DEBUG):
        for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
            logger.log(getattr(severity, name), name.lower())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "tensorrt-rtx: internal_error"),
        ("ERROR", "tensorrt-rtx: error"),
        ("WARNING", "tensorrt-rtx: warning"),
        ("DEBUG", "tensorrt-rtx: info"),
    ]
    assert logger.take_errors() == "internal_error; error"
    assert logger.take_errors() == "it gave no reason"
