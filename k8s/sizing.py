"""Replicas and costs from a few named inputs: ``python k8s/sizing.py`` writes the tables of ``README.md``.

Replace an input here, run it, and every figure follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- made by sizing.py -->\n", "<!-- end of what sizing.py made -->\n"

# Measured, on two cores of an AMD EPYC: both cores' time an image, all stages.
CPU_SECONDS_PER_IMAGE = 0.107
# Measured by benchmarks.feed on the same cores (its figures.json, two workers), JPEGs of 960x720 to label PNGs: the CPU
# time of an image in all processes beside the network; and that of the engine process, one thread, in batches of two.
REQUEST_CORE_SECONDS_PER_IMAGE = 0.0137
ENGINE_PROCESS_SECONDS_PER_IMAGE = 0.0006
# Counted: what the bundled model moves in fp16 at 768x576. At 35 operations a byte the memory bounds it on every GPU.
MEGABYTES_PER_IMAGE = 544
# Chosen: how busy a replica may be on the mean. At 75% two requests are inside, at 90% five.
UTILISATION = 0.75
# Assumed: the share of a GPU's bandwidth that the network gets. Nobody has measured this one.
BANDWIDTH_SHARE = 0.75
# Assumed: US dollars an hour on demand. Put in yours.
DOLLARS_PER_CORE_HOUR = 0.04
# Chosen: lost to a failure, a drain or a rollout while the others carry the load.
SPARE_REPLICAS = 1
RATES = (10, 50, 200, 1000)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its data sheet.

    Attributes:
        name: For the tables.
        gb_per_s: Published bandwidth of its memory.
        dollars_per_hour: Price, assumed; 0 where no cost is stated.
    """

    name: str
    gb_per_s: float
    dollars_per_hour: float = 0

    @property
    def images_per_s(self) -> float:
        """Images per second of the network, at most."""
        return BANDWIDTH_SHARE * self.gb_per_s * 1000 / MEGABYTES_PER_IMAGE


L4 = Gpu("L4", 300, 0.70)
H100 = Gpu("H100 SXM", 3350, 3.00)
GPUS = (L4, Gpu("A10", 600), Gpu("A100 80 GB", 2039), H100)
CORES = (4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Device:
    """Hardware of one replica.

    Attributes:
        name: For the tables.
        cores: CPU cores; None for as many as keep the GPU busy.
        gpu: Its GPU; None without one.
    """

    name: str
    cores: int | None
    gpu: Gpu | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Images per second by what could end them."""
        if self.gpu is None:
            return {"cores": 1 / CPU_SECONDS_PER_IMAGE}
        limits = {"GPU": self.gpu.images_per_s, "engine process": 1 / ENGINE_PROCESS_SECONDS_PER_IMAGE}
        if self.cores is not None:
            limits["cores"] = self.cores / REQUEST_CORE_SECONDS_PER_IMAGE
        return limits

    @property
    def bottleneck(self) -> str:
        """Name of what ends the images per second."""
        return min(self.limits, key=self.limits.__getitem__)

    @property
    def most_images_per_s(self) -> float:
        """Images per second when nothing waits."""
        return min(self.limits.values())

    @property
    def images_per_s(self) -> float:
        """Images per second at the chosen utilisation."""
        return UTILISATION * self.most_images_per_s

    @property
    def cores_used(self) -> int:
        """Cores to pay for."""
        return self.cores or math.ceil(self.most_images_per_s * REQUEST_CORE_SECONDS_PER_IMAGE)

    @property
    def hours_per_million(self) -> float:
        """Hours of one replica for a million images."""
        return 1e6 / self.images_per_s / 3600

    @property
    def dollars_per_million(self) -> float:
        """Price of a million images."""
        gpu_dollars = 0 if self.gpu is None else self.gpu.dollars_per_hour
        return self.hours_per_million * (gpu_dollars + self.cores_used * DOLLARS_PER_CORE_HOUR)

    def replicas(self, rate: float) -> int:
        """Replicas for ``rate`` images a second."""
        return math.ceil(rate / self.images_per_s) + SPARE_REPLICAS


DEVICES = (
    Device("2 CPU cores (`overlays/cpu`)", 2),
    Device("L4, 4 cores (`overlays/gpu`)", 4, L4),
    Device("L4, cores to match", None, L4),
    Device("H100 SXM, cores to match", None, H100),
)


def tables() -> str:
    """Inputs, replicas and costs as Markdown, and how the costs come about."""
    return "\n\n".join((_inputs(), _replicas(), _costs(), *_worked(), by_cores())) + "\n"


def by_cores() -> str:
    """Images per second of each GPU by the cores beside it, and what ends them, as Markdown."""
    rows = []
    for gpu in GPUS:
        devices = [Device(gpu.name, cores, gpu) for cores in CORES]
        rows.append((gpu.name, *(f"{device.most_images_per_s:.0f}, {device.bottleneck}" for device in devices)))
    return _table(("images/s at most, and what ends them", *(f"{cores} cores" for cores in CORES)), rows)


def _inputs() -> str:
    rows = [
        ("seconds an image, 2 cores", f"{CPU_SECONDS_PER_IMAGE:.3f}", "measured"),
        ("core seconds an image beside the network", f"{REQUEST_CORE_SECONDS_PER_IMAGE:.4f}", "measured"),
        ("of these in the engine process", f"{ENGINE_PROCESS_SECONDS_PER_IMAGE:.4f}", "measured"),
        ("MB an image, fp16", f"{MEGABYTES_PER_IMAGE}", "counted"),
        ("utilisation of a replica", f"{UTILISATION:.0%}", "chosen"),
        ("spare replicas", f"{SPARE_REPLICAS}", "chosen"),
        ("share of the GPU's bandwidth", f"{BANDWIDTH_SHARE:.0%}", "**assumed**"),
        ("$ a core and hour", f"{DOLLARS_PER_CORE_HOUR:.2f}", "**assumed**"),
    ]
    rows.extend((f"{gpu.name}: GB/s", f"{gpu.gb_per_s:.0f}", "published") for gpu in GPUS)
    rows.extend((f"{gpu.name}: $ an hour", f"{gpu.dollars_per_hour:.2f}", "**assumed**") for gpu in (L4, H100))
    return _table(("input", "value", ""), rows)


def _replicas() -> str:
    rows = [
        (device.name, f"{device.images_per_s:.1f}", *(str(device.replicas(rate)) for rate in RATES))
        for device in DEVICES
    ]
    return _table(("replica", "images/s each", *(f"for {rate}/s" for rate in RATES)), rows)


def _costs() -> str:
    rows = [
        (
            device.name,
            f"{device.most_images_per_s:.1f}",
            device.bottleneck,
            f"{device.images_per_s:.1f}",
            str(device.cores_used),
            f"{device.dollars_per_million:.2f}",
            "measured, price assumed" if device.gpu is None else "estimate",
        )
        for device in DEVICES
    ]
    return _table(("replica", "images/s at most", "ended by", "used, images/s", "cores", "$ a million", ""), rows)


def _worked() -> Iterator[str]:
    """The costs of the GPUs step by step."""
    for device in DEVICES:
        if device.gpu is None or device.cores is not None:
            continue
        gpu, used, hours = device.gpu, device.images_per_s, device.hours_per_million
        yield (
            f"{device.name}, a million images: {BANDWIDTH_SHARE:.2f} x {gpu.gb_per_s:.0f} GB/s / "
            f"{MEGABYTES_PER_IMAGE} MB = {gpu.images_per_s:.0f} images a second, of which the {device.bottleneck} lets "
            f"{device.most_images_per_s:.0f}\nthrough, {used:.0f} at {UTILISATION:.0%}; 1e6 / {used:.0f} / 3600 = "
            f"{hours:.3f} h; {hours:.3f} h x (${gpu.dollars_per_hour:.2f} + {device.cores_used} x "
            f"${DOLLARS_PER_CORE_HOUR:.2f}) = ${device.dollars_per_million:.2f}."
        )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def with_tables(text: str) -> str:
    """The README with the current tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
