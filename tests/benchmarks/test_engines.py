"""Engines by turns: each round runs each, and a ratio is to the first of the same round."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines
from service.engines.base import EngineError


def test_times_are_per_round_and_engine(tiny_model_dir: Path) -> None:
    opened = [engines.open_engine(tiny_model_dir, name) for name in ("onnxruntime:fp32", "openvino")]
    assert [(engine.name, engine.graph.precision) for engine in opened] == [
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
    ]
    times = engines.measure(opened, 3)
    assert times.shape == (3, 2)
    assert np.all(times > 0)


def test_rounds_go_forwards_and_backwards_after_one_that_does_not_count() -> None:
    calls: list[str] = []
    times = engines.take_turns([lambda: calls.append("a"), lambda: calls.append("b")], 2)
    assert calls == ["b", "a", "a", "b", "b", "a"]
    assert times.shape == (2, 2)


def test_table_has_a_row_per_engine_and_the_first_is_1(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["openvino:fp32", "onnxruntime:fp32"]
    monkeypatch.setattr(sys, "argv", ["engines", str(tiny_model_dir), *names, "--rounds", "2"])
    engines.main()
    _, first, second = capsys.readouterr().out.splitlines()
    assert [first.split()[0], second.split()[0]] == names
    assert first.split()[2:] == ["1.00", "1.00", "to", "1.00"]


def test_engine_that_is_not_there_is_an_error(tiny_model_dir: Path) -> None:
    with pytest.raises(EngineError, match="it does not compute in bf16"):
        engines.open_engine(tiny_model_dir, "onnxruntime:bf16")
