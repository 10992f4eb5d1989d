"""The arithmetic of one million images a minute, against figures worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.scale.calibration import CpuCosts
from benchmarks.scale.million import Assumptions, Gpu, cpu_s_per_image, gbit_per_s, size, tables

CPU = CpuCosts(0.006, 0.001, 0.002, 0.003, image_bytes=150_000, answer_bytes=15_000)
# 100 images a second at the assumed share of its peak.
GPU = Gpu("some", peak_flops=20e12, price_per_h=1.0)
GIVEN = Assumptions(flops_per_image=20e9, peak_share=0.1, load=0.5, regions=3, core_price_per_h=0.05)


def test_one_million_images_a_minute() -> None:
    sizing = size(GPU, CPU, GIVEN)
    # 16,667 a second, half as many again for a lost region, twice that at half load: 50,000.
    assert sizing.gpu_images_per_s == pytest.approx(100)
    assert (sizing.gpus, sizing.processes, sizing.cores) == (500, 150, 600)
    assert sizing.usd_per_million == pytest.approx((500 * 1.0 + 600 * 0.05) / 60)
    assert tables(CPU, GIVEN, [GPU]).splitlines()[-1] == "| some | 100 | 500 | 150 | 600 | 1 | 8.83 |"


def test_cpu_of_an_image_is_all_but_the_engine() -> None:
    assert cpu_s_per_image(CPU) == pytest.approx(0.012)


def test_network() -> None:
    assert gbit_per_s(150_000) == pytest.approx(20)


def test_two_regions_each_carry_all() -> None:
    assert Assumptions(regions=2).spare == pytest.approx(2)
