"""As in Docker, where the address of a dead replica refuses nothing: whoever connects to it waits for nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.load_balancer.balancer import Kind, configuration_of, running
from tests.load_balancer.load import SOME, Load
from tests.load_balancer.network import Network, network
from tests.load_balancer.replicas import Replica, fleet, whole
from tests.load_balancer.samples import samples

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]

VICTIM = 2


@pytest.fixture(scope="module")
def containers() -> Iterator[Network]:
    with network(3) as made:
        yield made


@pytest.fixture(scope="module")
def contained(containers: Network, shared_model_dir: Path) -> Iterator[Sequence[Replica]]:
    """A replica in each container."""
    replicas = [
        Replica(shared_model_dir, host=containers.address(number), port=8000, enter=containers.enter(number))
        for number in (1, 2, 3)
    ]
    with fleet(replicas):
        yield replicas


def is_silent(containers: Network, address: str) -> bool:
    """Check whether connecting to an address gets no answer at all."""
    program = "import socket, sys; socket.create_connection((sys.argv[1], 8000), timeout=1)"
    command = ["ip", "netns", "exec", containers.namespace, sys.executable, "-c", program, address]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "TimeoutError" in result.stderr


def test_dead_container_costs_no_request(
    kind: Kind, containers: Network, contained: Sequence[Replica], tmp_path: Path
) -> None:
    whole(contained)
    victim = contained[VICTIM - 1]
    configuration = configuration_of(kind, [replica.address for replica in contained])
    with running(kind, configuration, tmp_path / kind, in_namespace=containers.namespace) as balancer:
        with Load(balancer, samples()) as load:
            load.go_on(SOME)
            before = balancer.answered_by(victim.address)
            killed = time.monotonic()
            victim.kill()
            containers.cut(VICTIM)
            assert is_silent(containers, containers.address(VICTIM))
            load.go_on(SOME)
            alone = len(balancer.entries())
            containers.connect(VICTIM)
            victim.start()
            victim.until_ready()
            back = time.monotonic()
            load.go_on(2 * SOME)
        load.check()
        entries = balancer.entries()
    assert load.during(0, killed) >= SOME <= load.during(killed, back)
    assert before > 0
    assert any(entry.tries > 1 for entry in entries[:alone])
    assert any(entry.replica == victim.address for entry in entries[alone:])
