"""Nodes of sizes that people have: what they leave for pods, less what the cluster's own pods on each of them ask for.

Allocatable amounts are those of the clouds' documentation (GKE: "Plan node sizes"). The share of the cluster's own
pods, which are those of network, logs, metrics and device plugin, is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.k8s.pods import quantity

GPU = "nvidia.com/gpu"
SLICE = "nvidia.com/mig-1g.10gb"
_PRODUCT = "nvidia.com/gpu.product"
_STRATEGY = "nvidia.com/gpu.sharing-strategy"
ZONE, HOSTNAME = "topology.kubernetes.io/zone", "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Node:
    """A node before anything of ours runs on it.

    Attributes:
        name: Its hostname.
        free: What pods may ask for, by resource.
        labels: Labels, without the hostname.
    """

    name: str
    free: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)

    def label(self, key: str) -> str | None:
        return self.name if key == HOSTNAME else {"kubernetes.io/arch": "amd64", **self.labels}.get(key)

    def renamed(self, name: str, **labels: str) -> Node:
        """The same machine once more; ``zone`` names its zone."""
        zone = {ZONE: labels["zone"]} if "zone" in labels else {}
        return Node(name, self.free, {**self.labels, **zone})


_L4 = {_PRODUCT: "NVIDIA-L4", _STRATEGY: "none"}
_L4_SHARED = {_PRODUCT: "NVIDIA-L4-SHARED"}
_H100 = {_PRODUCT: "NVIDIA-H100-80GB-HBM3", _STRATEGY: "none"}


def _machine(name: str, cpu: str, memory: str, labels: dict[str, str] | None = None, **devices: int) -> Node:
    """A node with ``cpu`` and ``memory`` allocatable, less what the cluster's own pods take."""
    own_cpu, own_memory = ("900m", "1536Mi") if labels else ("400m", "512Mi")
    free = {
        "cpu": quantity(cpu) - quantity(own_cpu),
        "memory": quantity(memory) - quantity(own_memory),
        "ephemeral-storage": quantity("40Gi"),
    }
    names = {"gpus": GPU, "slices": SLICE}
    return Node(name, free | {names[device]: float(count) for device, count in devices.items()}, labels or {})


KIND = _machine("6 cores and 16 GB", "6", "16G")
TWO_CORES = _machine("e2-standard-2", "1930m", "6Gi")
FOUR_CORES = _machine("e2-standard-4", "3920m", "13Gi")
L4_GKE = _machine("g2-standard-4", "3920m", "13Gi", _L4, gpus=1)
L4_EKS = _machine("g6.xlarge", "3920m", "14Gi", _L4, gpus=1)
H100_SLICES = _machine("a3-highgpu-1g", "25865m", "220Gi", _H100, slices=7)
L4_SHARES = {
    strategy: _machine("g2-standard-12", "11900m", "43Gi", {**_L4_SHARED, _STRATEGY: strategy}, gpus=4)
    for strategy in ("time-slicing", "mps")
}
FOUR_L4 = _machine("g2-standard-48", "47810m", "173Gi", _L4, gpus=4)

# The smallest nodes that README.md names, and how many pods of ours each must take.
SMALLEST = (
    (KIND, 3),
    (TWO_CORES, 1),
    (L4_GKE, 1),
    (L4_EKS, 1),
    (H100_SLICES, 7),
    (L4_SHARES["time-slicing"], 4),
    (L4_SHARES["mps"], 4),
    (FOUR_L4, 1),
)
