"""The arithmetic of one million images a minute, against figures worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.scale.million import Assumptions, gbit_per_s, size, tables
from k8s.sizing import ENGINE_PROCESS_SECONDS_PER_IMAGE, Gpu

# 100 images a second: 0.75 x 72.533 GB/s / 544 MB.
GPU = Gpu("some", gb_per_s=100 * 0.544 / 0.75, dollars_per_hour=1.0)
GIVEN = Assumptions(load=0.5, regions=3, core_price_per_h=0.05)


def test_one_million_images_a_minute() -> None:
    sizing = size(GPU, GIVEN, request_s=0.012)
    # 16,667 a second, half as many again for a lost region, twice that at half load: 50,000.
    assert sizing.images_per_s == pytest.approx(100)
    assert (sizing.bottleneck, sizing.gpus, sizing.cores) == ("GPU", 500, 600)
    assert sizing.usd_per_million == pytest.approx((500 * 1.0 + 600 * 0.05) / 60)


def test_a_gpu_beyond_its_engine_process_does_not_count() -> None:
    sizing = size(Gpu("faster than all", gb_per_s=1e6), GIVEN)
    assert sizing.bottleneck == "engine process"
    assert sizing.images_per_s == pytest.approx(1 / ENGINE_PROCESS_SECONDS_PER_IMAGE)


def test_a_row_for_each_gpu() -> None:
    assert [row.split(" | ")[:4] for row in tables(GIVEN, [GPU]).splitlines()[2:]] == [["| some", "100", "GPU", "500"]]


def test_network() -> None:
    assert gbit_per_s(150_000) == pytest.approx(20)


def test_two_regions_each_carry_all() -> None:
    assert Assumptions(regions=2).spare == pytest.approx(2)
