"""Fleets of replicas and the balancers in front of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.load_balancer.balancer import KINDS, Balancer, Kind, configuration_of, running
from tests.load_balancer.replicas import Replica, fleet, whole


@pytest.fixture(scope="module")
def started_replicas(shared_model_dir: Path) -> Iterator[Sequence[Replica]]:
    with fleet([Replica(shared_model_dir) for _ in range(3)]) as replicas:
        yield replicas


@pytest.fixture
def replicas(started_replicas: Sequence[Replica]) -> Sequence[Replica]:
    """Three replicas that are ready, whatever an earlier test has done to them."""
    whole(started_replicas)
    return started_replicas


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def balancer(kind: Kind, replicas: Sequence[Replica], tmp_path: Path) -> Iterator[Balancer]:
    """A balancer in front of the three."""
    with running(kind, configuration_of(kind, [replica.address for replica in replicas]), tmp_path / kind) as balancer:
        yield balancer
