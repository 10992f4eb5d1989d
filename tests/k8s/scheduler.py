"""Model of kube-scheduler, as far as the manifests depend on it: filters by labels and room, scores by spread.

Rules of the plugins NodeAffinity, NodeResourcesFit and PodTopologySpread of Kubernetes 1.36. Other scores are not known
here, so of nodes with equal scores the one with the most pods is taken: the worst choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.k8s.nodes import Node
from tests.k8s.pods import Pod, quantity


@dataclass(slots=True)
class Cluster:
    """Nodes, and what has been put on them.

    Attributes:
        nodes: The nodes.
        placed: Pods by the names of their nodes.
    """

    nodes: tuple[Node, ...]
    placed: list[tuple[str, Pod]] = field(default_factory=list)

    def place(self, pod: Pod) -> Node | None:
        """Puts a pod on a node; None where it stays Pending."""
        fitting = [node for node in self.nodes if admits(node, pod) and self._has_room(node, pod)]
        if not fitting:
            return None
        scores = self._spread(pod, fitting)
        best = max(fitting, key=lambda node: (scores[node.name], self._count(node)))
        self.placed.append((best.name, pod))
        return best

    def remove(self, index: int = 0) -> None:
        """Ends the pod that has been there the longest."""
        del self.placed[index]

    def _count(self, node: Node) -> int:
        return sum(name == node.name for name, _ in self.placed)

    def _has_room(self, node: Node, pod: Pod) -> bool:
        there = [requests(other) for name, other in self.placed if name == node.name]
        return all(
            sum(other.get(key, 0.0) for other in there) + amount <= node.free.get(key, 0.0)
            for key, amount in requests(pod).items()
        )

    def _spread(self, pod: Pod, fitting: list[Node]) -> dict[str, float]:
        """Fewer pods in the node's domains are better; nodes without one of the labels all score nothing."""
        keys = [constraint["topologyKey"] for constraint in pod.spec.get("topologySpreadConstraints", [])]
        cost = {node.name: self._cost(node, keys, fitting) for node in fitting if _has_all(node, keys)}
        worst = max(cost.values(), default=0.0)
        return {node.name: worst - cost[node.name] + 1 if node.name in cost else 0.0 for node in fitting}

    def _cost(self, node: Node, keys: list[str], fitting: list[Node]) -> float:
        total = 0.0
        for key in keys:
            domains = {other.label(key) for other in fitting if _has_all(other, keys)}
            here = {other.name for other in self.nodes if other.label(key) == node.label(key)}
            total += sum(name in here for name, _ in self.placed) * math.log(len(domains) + 2)
        return total


def _has_all(node: Node, keys: Iterable[str]) -> bool:
    return all(node.label(key) is not None for key in keys)


def admits(node: Node, pod: Pod) -> bool:
    """True if nodeSelector and required node affinity let a pod onto a node."""
    if any(node.label(key) != value for key, value in pod.spec.get("nodeSelector", {}).items()):
        return False
    affinity = pod.spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    terms = required["nodeSelectorTerms"]
    return any(all(_matches(node, rule) for rule in term["matchExpressions"]) for term in terms)


def _matches(node: Node, rule: dict[str, Any]) -> bool:
    value = node.label(rule["key"])
    if rule["operator"] == "Exists":
        return value is not None
    return bool((value in rule["values"]) == (rule["operator"] == "In"))


def requests(pod: Pod) -> dict[str, float]:
    """Requests of a pod by resource, summed over its containers."""
    total: dict[str, float] = {}
    for container in pod.spec["containers"]:
        for key, amount in container["resources"]["requests"].items():
            total[key] = total.get(key, 0.0) + quantity(amount)
    return total


def roll_out(cluster: Cluster, old: Pod, new: Pod, replicas: int) -> bool:
    """Roll a Deployment out where its old pods run; gives whether it ends. Pods get ready at once."""
    rolling = old.owner["spec"]["strategy"]["rollingUpdate"]
    surge, missing = int(rolling["maxSurge"]), int(rolling["maxUnavailable"])
    olds, news = replicas, 0
    while olds:
        ending = min(olds, max(0, olds + news - replicas + missing))
        for _ in range(ending):
            cluster.remove()
        olds -= ending
        wanted = min(replicas - news, replicas + surge - olds - news)
        started = sum(cluster.place(new) is not None for _ in range(wanted))
        news += started
        if not ending and not started:
            return False
    return news == replicas
