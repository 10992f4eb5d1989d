"""Under load a replica dies, all are replaced, one freezes, one is slow: no request is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.load_balancer.balancer import Balancer, Kind, configuration_of, running
from tests.load_balancer.load import REQUESTS, SOME, Load
from tests.load_balancer.replicas import SLOW, Replica, fleet
from tests.load_balancer.samples import samples

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]


def test_killed_replica_costs_no_request(balancer: Balancer, replicas: Sequence[Replica]) -> None:
    victim = replicas[1]
    with Load(balancer, samples()) as load:
        load.go_on(SOME)
        victim.until_busy()
        killed = time.monotonic()
        before = balancer.answered_by(victim.address)
        victim.kill()
        load.go_on(SOME)
        alone = balancer.answered_by(victim.address)
        victim.start()
        victim.until_ready()
        back = time.monotonic()
        load.go_on(SOME)
    load.check()
    assert load.during(0, killed) >= SOME <= load.during(killed, back)
    assert load.during(back, time.monotonic()) >= SOME
    assert 0 < before <= alone < balancer.answered_by(victim.address)
    assert any(entry.tries > 1 for entry in balancer.entries())


def test_rolling_restart_costs_no_request(balancer: Balancer, replicas: Sequence[Replica]) -> None:
    with Load(balancer, samples()) as load:
        load.go_on(SOME)
        for replica in replicas:
            replica.until_busy()
            before = len(load.outcomes)
            replica.stop()
            replica.start()
            replica.until_ready()
            assert len(load.outcomes) > before
        load.go_on(SOME)
    load.check()
    assert all(replica.metric("ecenet_requests_total") > 0 for replica in replicas)


def test_frozen_replica_costs_no_request(balancer: Balancer, replicas: Sequence[Replica]) -> None:
    victim = replicas[2]
    with Load(balancer, samples()) as load:
        load.go_on(SOME)
        victim.until_busy()
        victim.freeze()
        frozen = time.monotonic()
        load.go_on(3 * SOME)
        resumed = time.monotonic()
        victim.resume()
        load.go_on(SOME)
    load.check()
    halfway = (frozen + resumed) / 2
    stuck = [outcome for outcome in load.outcomes if outcome.started < halfway and outcome.ended > resumed]
    assert load.during(0, frozen) >= SOME <= load.during(resumed, time.monotonic())
    assert load.during(frozen, resumed) >= SOME
    assert stuck


def test_slow_replica_costs_no_request_and_gets_few(
    kind: Kind, replicas: Sequence[Replica], shared_model_dir: Path, tmp_path: Path
) -> None:
    slow = Replica(shared_model_dir, program=SLOW, SLOW_S="0.5")
    with fleet([slow]):
        all_replicas = [*replicas[:2], slow]
        configuration = configuration_of(kind, [replica.address for replica in all_replicas])
        before = [answered(replica) for replica in all_replicas]
        with running(kind, configuration, tmp_path / kind) as balancer, Load(balancer, samples()) as load:
            load.go_on(REQUESTS)
        load.check()
        shares = [answered(replica) - count for replica, count in zip(all_replicas, before, strict=True)]
    assert sum(shares) == len(load.outcomes)
    # Round robin would give it a third.
    assert 0 < shares[2] < min(shares[:2]) / 2


def answered(replica: Replica) -> float:
    """Requests that a replica has answered with labels."""
    return replica.metric("ecenet_requests_total", 'format="labels"', 'status="200"')
