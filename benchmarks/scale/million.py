"""One million images a minute, by arithmetic: inputs with their names, formulas, a table.

    python -m benchmarks.scale.million

Measured inputs are read from calibration.json; GPUs and prices are those of k8s/sizing.py. Nothing here was measured on
a GPU: how much of its peak the model reaches is an assumption, and the first thing to measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.accuracy.table import markdown
from benchmarks.scale.calibration import CpuCosts, read_calibration
from k8s.sizing import DEVICES, DOLLARS_PER_CORE_HOUR, GFLOPS_PER_IMAGE, GPU_EFFICIENCY

IMAGES_PER_S = 1_000_000 / 60


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet, and what it is assumed to cost.

    Attributes:
        name: What it is called.
        peak_flops: Dense fp16 operations a second of its tensor cores, as published.
        price_per_h: USD of one for an hour; assumed.
    """

    name: str
    peak_flops: float
    price_per_h: float


GPUS = tuple(
    Gpu(device.name.partition(",")[0], device.peak_tflops * 1e12, device.dollars_per_hour)
    for device in DEVICES
    if device.peak_tflops and device.cores is None
)


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Assumptions: figures that no measurement here gives.

    Attributes:
        flops_per_image: Of the bundled model at 768x576, a multiply-add as two; counted, not assumed.
        peak_share: Of a GPU's peak that the model reaches.
        load: Of the capacity that is used in the busiest minute, by the simulation.
        regions: One of them may be lost.
        core_price_per_h: USD of a CPU core for an hour.
    """

    flops_per_image: float = GFLOPS_PER_IMAGE * 1e9
    peak_share: float = GPU_EFFICIENCY
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
        gpu_images_per_s: One GPU at its assumed share of the peak.
        gpus: By arithmetic operations alone.
        processes: By the event loop of each process alone.
        cores: For decoding, labels, encoding and HTTP.
        usd_per_million: GPUs and cores for a minute.
    """

    gpu_images_per_s: float
    gpus: int
    processes: int
    cores: int
    usd_per_million: float


def size(gpu: Gpu, cpu: CpuCosts, given: Assumptions) -> Sizing:
    """GPUs, processes and cores for ``IMAGES_PER_S``, all regions together."""
    gpu_images_per_s = gpu.peak_flops * given.peak_share / given.flops_per_image
    needed_per_s = IMAGES_PER_S * given.spare / given.load
    gpus = math.ceil(needed_per_s / gpu_images_per_s)
    cores = math.ceil(needed_per_s * cpu_s_per_image(cpu))
    usd_per_h = gpus * gpu.price_per_h + cores * given.core_price_per_h
    return Sizing(gpu_images_per_s, gpus, math.ceil(needed_per_s * cpu.request_s), cores, usd_per_h / 60)


def cpu_s_per_image(cpu: CpuCosts) -> float:
    """CPU seconds of an image beside the engine's."""
    return cpu.decode_s + cpu.labels_s + cpu.encode_s + cpu.request_s


def gbit_per_s(bytes_per_image: int) -> float:
    """Network for ``IMAGES_PER_S`` in one direction."""
    return IMAGES_PER_S * bytes_per_image * 8 / 1e9


def tables(cpu: CpuCosts, given: Assumptions, gpus: Iterable[Gpu] = GPUS) -> str:
    """The sizes in Markdown."""
    header = ["GPU", "images/s of one", "GPUs", "processes", "cores", "cores per GPU", "USD per million"]
    rows = []
    for gpu in gpus:
        sizing = size(gpu, cpu, given)
        counts = (f"{sizing.gpu_images_per_s:.0f}", sizing.gpus, sizing.processes, sizing.cores)
        rest = (f"{sizing.cores / sizing.gpus:.0f}", f"{sizing.usd_per_million:.2f}")
        rows.append([gpu.name, *map(str, counts), *rest])
    return markdown(header, rows)


def main() -> None:
    """Print inputs and table."""
    calibration = read_calibration()
    cpu = calibration.cpu
    print(
        f"{calibration.origin.command}, commit {calibration.origin.commit}, {calibration.origin.processor}\n"
        f"CPU per image: decode {1e3 * cpu.decode_s:.1f} ms, labels {1e3 * cpu.labels_s:.1f} ms, PNG "
        f"{1e3 * cpu.encode_s:.1f} ms, HTTP and batching {1e3 * cpu.request_s:.1f} ms\n"
        f"in {gbit_per_s(cpu.image_bytes):.1f} Gbit/s ({cpu.image_bytes} bytes an image), "
        f"out {gbit_per_s(cpu.answer_bytes):.1f} Gbit/s ({cpu.answer_bytes})\n"
    )
    print(tables(cpu, Assumptions()))


if __name__ == "__main__":
    main()
