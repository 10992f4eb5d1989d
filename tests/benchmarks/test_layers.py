"""Shares of a graph's time by operator, as each of the CPU's runtimes measures them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.layers import LAYERS_OF, Layer, shares


def test_shares_add_up_by_operator_the_dearest_first() -> None:
    layers = [Layer("a", "Conv", 3.0), Layer("b", "Resize", 1.5), Layer("c", "Resize", 2.5), Layer("d", "Add", 1.0)]
    assert list(shares(layers).items()) == [("Resize", 0.5), ("Conv", 0.375), ("Add", 0.125)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_of_a_graph_has_a_time(runtime: str, tiny_model_dir: Path) -> None:
    layers = LAYERS_OF[runtime](tiny_model_dir / "model.onnx", 3)
    assert layers
    assert all(layer.milliseconds > 0 for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    assert sum(shares(layers).values()) == pytest.approx(1)
