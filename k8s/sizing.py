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

# Measured, on two cores of an AMD EPYC: both cores' time an image, all stages, and one core's to decode and encode it.
CPU_SECONDS_PER_IMAGE = 0.107
CODEC_CORE_SECONDS_PER_IMAGE = 0.010
# Measured, by torch.utils.flop_counter at 768x576.
GFLOPS_PER_IMAGE = 18.9
# Chosen: how busy a replica may be on the mean. At 75% two requests are inside, at 90% five.
UTILISATION = 0.75
# Assumed: the share of a GPU's peak that a small convolutional network gets. Nobody has measured this one.
GPU_EFFICIENCY = 0.10
# Assumed: US dollars an hour on demand. Put in yours.
DOLLARS_PER_CORE_HOUR = 0.04
# Chosen: lost to a failure, a drain or a rollout while the others carry the load.
SPARE_REPLICAS = 1
RATES = (10, 50, 200, 1000)


@dataclass(frozen=True, slots=True)
class Device:
    """Hardware of one replica.

    Attributes:
        name: For the tables.
        cores: CPU cores; None for as many as keep the GPU busy.
        peak_tflops: Published fp16 peak of the GPU, dense; 0 without one.
        dollars_per_hour: Price of the GPU, assumed.
    """

    name: str
    cores: int | None
    peak_tflops: float = 0
    dollars_per_hour: float = 0

    @property
    def engine_images_per_s(self) -> float:
        """Images per second of the network alone, at most."""
        if not self.peak_tflops:
            return 1 / CPU_SECONDS_PER_IMAGE
        return GPU_EFFICIENCY * self.peak_tflops * 1000 / GFLOPS_PER_IMAGE

    @property
    def images_per_s(self) -> float:
        """Images per second of a replica: the slower of engine and codecs, at the chosen utilisation."""
        if not self.peak_tflops or self.cores is None:
            return UTILISATION * self.engine_images_per_s
        return UTILISATION * min(self.engine_images_per_s, self.cores / CODEC_CORE_SECONDS_PER_IMAGE)

    @property
    def cores_used(self) -> int:
        """Cores to pay for."""
        return self.cores or math.ceil(self.engine_images_per_s * CODEC_CORE_SECONDS_PER_IMAGE)

    @property
    def hours_per_million(self) -> float:
        """Hours of one replica for a million images."""
        return 1e6 / self.images_per_s / 3600

    @property
    def dollars_per_million(self) -> float:
        """Price of a million images."""
        return self.hours_per_million * (self.dollars_per_hour + self.cores_used * DOLLARS_PER_CORE_HOUR)

    def replicas(self, rate: float) -> int:
        """Replicas for ``rate`` images a second."""
        return math.ceil(rate / self.images_per_s) + SPARE_REPLICAS


# Peaks: NVIDIA's data sheets of L4 and H100 SXM state twice these, with sparsity.
DEVICES = (
    Device("2 CPU cores (`overlays/cpu`)", 2),
    Device("L4, 4 cores (`overlays/gpu`)", 4, 121, 0.70),
    Device("L4, cores to match", None, 121, 0.70),
    Device("H100 SXM, cores to match", None, 989, 3.00),
)


def tables() -> str:
    """Inputs, replicas and costs as Markdown, and how the costs come about."""
    return "\n\n".join((_inputs(), _replicas(), _costs(), *_worked())) + "\n"


def _inputs() -> str:
    rows = [
        ("seconds an image, 2 cores", f"{CPU_SECONDS_PER_IMAGE:.3f}", "measured"),
        ("codec seconds an image, 1 core", f"{CODEC_CORE_SECONDS_PER_IMAGE:.3f}", "measured"),
        ("GFLOPs an image", f"{GFLOPS_PER_IMAGE}", "measured"),
        ("utilisation of a replica", f"{UTILISATION:.0%}", "chosen"),
        ("spare replicas", f"{SPARE_REPLICAS}", "chosen"),
        ("share of the GPU's peak", f"{GPU_EFFICIENCY:.0%}", "**assumed**"),
        ("$ a core and hour", f"{DOLLARS_PER_CORE_HOUR:.2f}", "**assumed**"),
    ]
    for device in DEVICES[-2:]:
        name = device.name.partition(",")[0]
        rows.append((f"{name}: fp16 TFLOPS, dense", f"{device.peak_tflops:.0f}", "published"))
        rows.append((f"{name}: $ an hour", f"{device.dollars_per_hour:.2f}", "**assumed**"))
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
            f"{device.engine_images_per_s:.1f}",
            f"{device.images_per_s:.1f}",
            str(device.cores_used),
            f"{device.dollars_per_million:.2f}",
            "estimate" if device.peak_tflops else "measured, price assumed",
        )
        for device in DEVICES
    ]
    return _table(("replica", "engine, images/s", "used, images/s", "cores", "$ a million", ""), rows)


def _worked() -> Iterator[str]:
    """The costs of the GPUs step by step."""
    for device in DEVICES[-2:]:
        full, used, hours = device.engine_images_per_s, device.images_per_s, device.hours_per_million
        yield (
            f"{device.name}, a million images: {GPU_EFFICIENCY:.2f} x {device.peak_tflops:.0f} TFLOPS / "
            f"{GFLOPS_PER_IMAGE} GFLOPs = {full:.0f} images a second, {used:.0f} at {UTILISATION:.0%};\n"
            f"1e6 / {used:.0f} / 3600 = {hours:.3f} h; {hours:.3f} h x (${device.dollars_per_hour:.2f} + "
            f"{device.cores_used} x ${DOLLARS_PER_CORE_HOUR:.2f}) = ${device.dollars_per_million:.2f}."
        )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(_lines(head, rows))


def _lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def with_tables(text: str) -> str:
    """The README with the tables as they are now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
