"""Rates of products and networks, and their shares of the faster product of a round."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import ceiling
from model_export.onnx_flops import count_flops
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import read_manifest


def test_both_products_multiply_the_same_matrices() -> None:
    works = ceiling.products(1, side=8)
    assert [(work.name, work.flops) for work in works] == [("numpy", 8 * 1024), ("onnxruntime", 8 * 1024)]
    rates = ceiling.measure(works, 3)
    assert rates.shape == (3, 2)
    assert np.all(rates > 0)


def test_rates_are_operations_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "take_turns", lambda runs, rounds: np.full((rounds, len(runs)), 2.0))
    works = [ceiling.Work("a", lambda: None, 3_000_000), ceiling.Work("b", lambda: None, 5_000_000)]
    np.testing.assert_allclose(ceiling.measure(works, 2), [[1.5, 2.5]] * 2)


def test_shares_are_of_the_faster_product_of_the_round() -> None:
    rates = np.array([[100.0, 50.0, 25.0], [40.0, 80.0, 60.0]])
    np.testing.assert_allclose(ceiling.shares(rates, 2), [[1.0, 0.5, 0.25], [0.5, 1.0, 0.75]])


def test_operations_of_an_int8_engine_are_those_of_the_float32_graph() -> None:
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    expected = count_flops(onnx.load(directory / manifest.graph.file))
    assert ceiling.network_flops(directory, manifest, manifest.graph.input_size) == expected > 1e9


def test_the_command_has_a_row_per_product_and_engine(tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.ceiling", str(tiny_model_dir), "onnxruntime:fp32", "--threads", "1"]
    done = subprocess.run([*command, "--rounds", "2"], capture_output=True, text=True, check=True)
    head, *rows = done.stdout.splitlines()
    assert head.startswith("1 threads")
    assert [row.split()[0] for row in rows] == ["numpy", "onnxruntime", "onnxruntime:fp32"]
