"""The metrics of a service that has answered a request, and what rules record of them."""

from __future__ import annotations

import pytest

from service.engines.runtimes import RUNTIMES
from tests.observability.promql import Catalogue, add_recorded, catalogue_of
from tests.observability.shipped import rules
from tests.support.live_service import LiveService


@pytest.fixture(scope="session")
def exposition(live_service: LiveService) -> str:
    """Body of ``/metrics`` of a ready service."""
    return live_service.metrics


@pytest.fixture(scope="session")
def catalogue(exposition: str) -> Catalogue:
    """All metrics that expressions may name."""
    found = catalogue_of(exposition)
    # One service has one engine; which others there are is known too.
    found["ecenet_model_info"]["engine"] |= set(RUNTIMES)
    return add_recorded(found, rules())
