"""Replicas come and go, and only DNS tells: the balancer follows, and no request is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.load_balancer.balancer import KINDS, Balancer, Kind, free_port, running
from tests.load_balancer.load import SOME, Load
from tests.load_balancer.name_server import name_server
from tests.load_balancer.patience import until
from tests.load_balancer.replicas import Replica, fleet, whole
from tests.load_balancer.samples import samples
from tests.load_balancer.shipped import haproxy_by_dns, nginx_by_dns

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


def follows_dns(kind: Kind) -> bool:
    """HAProxy always; nginx from 1.27.3 on, which Debian 12's is not."""
    if kind == "haproxy":
        return True
    told = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    (version,) = re.findall(r"nginx/(\d+)\.(\d+)\.(\d+)", told)
    return tuple(int(part) for part in version) >= (1, 27, 3)


@pytest.fixture(scope="module")
def neighbours(shared_model_dir: Path) -> Iterator[Sequence[Replica]]:
    """Three replicas at the same port of different addresses, as containers have it."""
    port = free_port()
    with fleet([Replica(shared_model_dir, host=host, port=port) for host in HOSTS]) as replicas:
        yield replicas


@pytest.mark.parametrize("kind", [kind for kind in KINDS if shutil.which(kind) is None or follows_dns(kind)])
def test_balancer_follows_dns_without_losing_a_request(
    kind: Kind, neighbours: Sequence[Replica], tmp_path: Path
) -> None:
    whole(neighbours)
    first, second, third = neighbours
    by_dns = {"nginx": nginx_by_dns, "haproxy": haproxy_by_dns}[kind]
    port = int(first.address.partition(":")[2])
    with (
        name_server(HOSTS[:2]) as names,
        running(kind, by_dns(names.address, port), tmp_path / kind) as balancer,
    ):
        until(lambda: httpx.get(f"{balancer.url}/readyz").status_code == 200, "the first replicas are found")
        with Load(balancer, samples()) as load:
            load.go_on(SOME)
            at_first = replicas_of(balancer)
            names.addresses.append(HOSTS[2])
            until(lambda: third.address in replicas_of(balancer), "the third one serves")
            names.addresses.remove(HOSTS[0])
            first.stop()
            left = len(balancer.entries())
            load.go_on(SOME)
            later = {entry.replica for entry in balancer.entries()[left:]}
        load.check()
    assert at_first <= {first.address, second.address}
    assert {second.address, third.address} <= later


def replicas_of(balancer: Balancer) -> set[str]:
    """Addresses of the replicas that have answered so far, by the balancer's log."""
    return {entry.replica for entry in balancer.entries()}
