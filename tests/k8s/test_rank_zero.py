"""The peers of a training while the name of pod 0 leads to two pods: the old one, which ends, and the new one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.manifests import Build, of_kind, render
from tests.k8s.rank_zero_network import ADDRESSES, NAME, Network, network, said

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]
SUM_OF_RANKS = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print(f"rank {dist.get_rank()} has {total.item():.0f}", flush=True)
"""


@pytest.fixture
def pods() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_a_peer_goes_to_the_first_address_that_listens(pods: Network, order: tuple[str, str]) -> None:
    pods.resolves(*order)
    for pod in ("old", "new"):
        pods.serve(pod)
    said(pods.ask(), f"reached {order[0]}")


def test_a_peer_passes_over_an_old_pod_whose_process_has_ended(pods: Network) -> None:
    pods.resolves("old", "new")
    pods.serve("new")
    said(pods.ask(), "reached new")


def test_a_peer_passes_over_an_old_pod_on_a_lost_node(pods: Network) -> None:
    pods.resolves("old", "new")
    pods.serve("new")
    pods.unplug("old")
    said(pods.ask(), "reached new")


def test_a_peer_of_the_old_pod_fails_when_that_ends_and_then_finds_the_new_one(pods: Network) -> None:
    pods.resolves("old", "new")
    old = pods.serve("old")
    pods.serve("new")
    peer = pods.ask("never set")
    said(peer, "reached old")
    old.kill()
    assert "DistNetworkError" in peer.communicate()[0]
    assert peer.returncode == 1
    said(pods.ask(), "reached new")


def test_the_jobs_command_joins_both_pods_when_the_old_one_has_ended(pods: Network, tmp_path: Path) -> None:
    pods.resolves("old", "new")
    (tmp_path / "work.py").write_text(SUM_OF_RANKS, encoding="utf-8")
    command = _command(tmp_path / "work.py")
    first = pods.start("new", command, JOB_COMPLETION_INDEX="0", GLOO_SOCKET_IFNAME="eth0")
    second = pods.start("peer", command, JOB_COMPLETION_INDEX="1", GLOO_SOCKET_IFNAME="to-new")
    assert "rank 1 has 3" in second.communicate()[0]
    assert "rank 0 has 3" in first.communicate()[0]
    assert (first.returncode, second.returncode) == (0, 0)


def test_pod_0_needs_no_name(pods: Network, tmp_path: Path) -> None:
    """Its own name leads to the old pod, which listens: it hosts the rendezvous all the same."""
    (tmp_path / "work.py").write_text(SUM_OF_RANKS, encoding="utf-8")
    pods.serve("old")
    hosts = Path("/etc/netns") / f"{pods.prefix}new" / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{ADDRESSES['old']} {NAME}\n", encoding="utf-8")
    command = _command(tmp_path / "work.py")
    first = pods.start("new", command, JOB_COMPLETION_INDEX="0", GLOO_SOCKET_IFNAME="eth0")
    second = pods.start("peer", command, JOB_COMPLETION_INDEX="1", GLOO_SOCKET_IFNAME="to-new")
    assert "rank 1 has 3" in second.communicate()[0]
    assert "rank 0 has 3" in first.communicate()[0]


def _command(work: Path) -> list[str]:
    """The command of the Job's container, with one process a pod that runs ``work`` in place of the training."""
    (job,) = of_kind(render(Build("jobs/training")), "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    launcher, _, _ = container["args"][0].partition("-m trainer.train")
    script = launcher.replace("--nproc-per-node=4", "--nproc-per-node=1").replace("timeout=3600", "timeout=30")
    return [*container["command"], f"export PATH={_scripts()}:$PATH\n{script}{work}"]


def _scripts() -> Path:
    """The folder with torchrun."""
    return Path(sys.executable).parent
