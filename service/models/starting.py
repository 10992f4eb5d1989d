"""The failures of a start, each as one sentence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Draining, LoadFailure

logger = logging.getLogger(__name__)


@contextmanager
def report_failed_start(fail: Callable[[str], None]) -> Iterator[None]:
    """Give ``fail`` the reason if the start within fails; a start that a drain ends has not failed."""
    try:
        yield
    except Draining:
        logger.debug("the start was cancelled")
    except LoadFailure as error:
        fail(error.detail)
    except Exception as error:
        logger.exception("the start failed")
        fail(f"the start failed: {str(error) or type(error).__name__}")
