"""One million images a minute, by arithmetic: inputs with their names, formulas, a table.

    python -m benchmarks.scale.million

Costs, GPUs and prices are those of k8s/sizing.py. Nothing here was measured on a GPU: how much of its bandwidth the
model reaches is an assumption, and the first thing to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.accuracy.table import markdown
from k8s.sizing import DOLLARS_PER_CORE_HOUR, H100, L4, REQUEST_CORE_SECONDS_PER_IMAGE, Device, Gpu

IMAGES_PER_S = 1_000_000 / 60
# The example street, 960x720, and the label PNG of it.
IMAGE_BYTES, ANSWER_BYTES = 135_995, 7_461
PRICED = (L4, H100)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions: figures that no measurement here gives.

    Attributes:
        load: Of the capacity that is used in the busiest minute, by the simulation.
        regions: One of them may be lost.
        core_price_per_h: USD of a CPU core for an hour.
    """

    load: float = 0.60
    regions: int = 3
    core_price_per_h: float = DOLLARS_PER_CORE_HOUR

    @property
    def spare(self) -> float:
        """Capacity of all regions over the traffic's, such that the others carry the load of a lost one."""
        return self.regions / (self.regions - 1)


@dataclass(frozen=True, slots=True)
class Sizing:
    """Size of a fleet.

    Attributes:
        images_per_s: Of one GPU with as many cores as it can use.
        bottleneck: What ends them.
        gpus: GPUs, each with an engine process.
        cores: For all processes.
        usd_per_million: GPUs and cores for a minute.
    """

    images_per_s: float
    bottleneck: str
    gpus: int
    cores: int
    usd_per_million: float


def size(gpu: Gpu, given: Assumptions, request_s: float = REQUEST_CORE_SECONDS_PER_IMAGE) -> Sizing:
    """GPUs and cores for ``IMAGES_PER_S``, all regions together; ``request_s`` is the CPU time of an image."""
    device = Device(gpu.name, None, gpu)
    needed_per_s = IMAGES_PER_S * given.spare / given.load
    gpus = math.ceil(needed_per_s / device.most_images_per_s)
    cores = math.ceil(needed_per_s * request_s)
    usd_per_h = gpus * gpu.dollars_per_hour + cores * given.core_price_per_h
    return Sizing(device.most_images_per_s, device.bottleneck, gpus, cores, usd_per_h / 60)


def gbit_per_s(bytes_per_image: int) -> float:
    """Network for ``IMAGES_PER_S`` in one direction."""
    return IMAGES_PER_S * bytes_per_image * 8 / 1e9


def tables(given: Assumptions, gpus: Iterable[Gpu] = PRICED) -> str:
    """The sizes in Markdown."""
    header = ["GPU", "images/s of one", "ended by", "GPUs", "cores", "cores per GPU", "USD per million"]
    rows = []
    for gpu in gpus:
        sizing = size(gpu, given)
        counts = (sizing.bottleneck, str(sizing.gpus), str(sizing.cores))
        rest = (f"{sizing.cores / sizing.gpus:.0f}", f"{sizing.usd_per_million:.2f}")
        rows.append([gpu.name, f"{sizing.images_per_s:.0f}", *counts, *rest])
    return markdown(header, rows)


def main() -> None:
    """Print inputs and table."""
    print(
        f"CPU of an image beside the network: {1e3 * REQUEST_CORE_SECONDS_PER_IMAGE:.1f} ms\n"
        f"in {gbit_per_s(IMAGE_BYTES):.1f} Gbit/s ({IMAGE_BYTES} bytes an image), "
        f"out {gbit_per_s(ANSWER_BYTES):.1f} Gbit/s ({ANSWER_BYTES})\n"
    )
    print(tables(Assumptions()))


if __name__ == "__main__":
    main()
