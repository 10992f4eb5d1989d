"""Scheduling of the overlays' pods: rollouts on full clusters, shared GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.k8s.manifests import K8S, Build, render
from tests.k8s.nodes import FOUR_CORES, L4_GKE, L4_SHARES, TWO_CORES, Node
from tests.k8s.pods import Pod, pods
from tests.k8s.scheduler import Cluster, requests, roll_out


def the_pod(build: Build) -> Pod:
    (pod,) = pods(render(build))
    return pod


def full_cluster(pod: Pod, machine: Node) -> tuple[Cluster, int]:
    """Two nodes with as many replicas as they take, and their number."""
    cluster = Cluster(tuple(machine.renamed(f"node-{number}", zone="a") for number in range(2)))
    while cluster.place(pod) is not None:
        pass
    return cluster, len(cluster.placed)


@pytest.mark.parametrize(("overlay", "machine"), [("cpu", TWO_CORES), ("cpu", FOUR_CORES), ("gpu", L4_GKE)])
def test_a_rollout_on_a_full_cluster_needs_no_surge(overlay: str, machine: Node) -> None:
    plain, without = the_pod(Build(f"overlays/{overlay}")), the_pod(Build(f"overlays/{overlay}", ("no-surge",)))
    cluster, replicas = full_cluster(plain, machine)
    assert replicas >= 2
    assert not roll_out(cluster, plain, plain, replicas)
    cluster, replicas = full_cluster(without, machine)
    assert roll_out(cluster, without, without, replicas)


def test_a_rollout_with_room_for_one_pod_more_ends() -> None:
    pod = the_pod(Build("overlays/cpu"))
    cluster, replicas = full_cluster(pod, TWO_CORES)
    cluster.remove()
    assert roll_out(cluster, pod, pod, replicas - 1)


def test_two_replicas_run_on_two_nodes_whatever_their_labels() -> None:
    pod = the_pod(Build("overlays/cpu"))
    for zones in ({}, {"zone": "a"}):
        cluster = Cluster((FOUR_CORES.renamed("one", **zones), FOUR_CORES.renamed("two", **zones)))
        assert [cluster.place(pod), cluster.place(pod)] != [None, None]
        assert len({name for name, _ in cluster.placed}) == 2


def advertised(strategy: str) -> tuple[str, str]:
    """The resource of a share and the suffix of the product label, as NVIDIA's device plugin makes them."""
    folder = {"time-slicing": "time-slicing", "mps": "mps"}[strategy]
    config = yaml.safe_load((K8S / "components" / folder / "device-plugin-config.yaml").read_text(encoding="utf-8"))
    sharing = config["sharing"][{"time-slicing": "timeSlicing", "mps": "mps"}[strategy]]
    return shares(sharing)


def shares(sharing: dict[str, Any]) -> tuple[str, str]:
    """A renamed resource keeps the product's name; a resource of the same name marks the product."""
    (resource,) = sharing["resources"]
    if sharing.get("renameByDefault", False):
        return f"{resource['name']}.shared", ""
    return resource["name"], "-SHARED"


@pytest.mark.parametrize("strategy", ["time-slicing", "mps"])
def test_pods_ask_for_the_share_that_the_device_plugin_offers(strategy: str) -> None:
    components = {"time-slicing": ("time-slicing", "api-keys"), "mps": ("mps",)}[strategy]
    pod = the_pod(Build("overlays/gpu-multi-tenant", components))
    resource, suffix = advertised(strategy)
    assert resource in requests(pod)
    assert pod.spec["nodeSelector"]["nvidia.com/gpu.product"] == f"NVIDIA-L4{suffix}"
    assert Cluster((L4_SHARES[strategy],)).place(pod) is not None
    (other,) = set(L4_SHARES) - {strategy}
    assert Cluster((L4_SHARES[other],)).place(pod) is None


def test_a_renamed_share_has_no_suffix_to_select_by() -> None:
    renamed = {"renameByDefault": True, "resources": [{"name": "nvidia.com/gpu", "replicas": 4}]}
    assert shares(renamed) == ("nvidia.com/gpu.shared", "")


def test_a_training_does_not_take_shares_for_gpus() -> None:
    pod = the_pod(Build("jobs/training"))
    for node in L4_SHARES.values():
        large = Node(node.name, node.free | requests(pod), node.labels)
        assert Cluster((large,)).place(pod) is None
        assert Cluster((Node("whole", large.free, {"nvidia.com/gpu.product": "NVIDIA-L4"}),)).place(pod) is not None
