"""The time of the networks of the comparison, by a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.accuracy import speed
from benchmarks.accuracy.variants import HEADS


def test_every_different_network_is_timed() -> None:
    assert set(speed.NETWORKS) == {*HEADS, "no-fr", "learned-classes"}


def test_networks_take_turns_and_the_fastest_pass_of_each_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 3, 10, 11, 20, 22, 30, 35])  # start and end of passes of 3, 1, 2 and 5 s
    monkeypatch.setattr(speed, "time", SimpleNamespace(process_time=lambda: next(clock)))
    result = speed.measure(["ecenet", "fcn"], (64, 96), rounds=2)
    assert result["milliseconds"] == {"ecenet": 2000, "fcn": 1000}
    assert (result["size"], result["classes"], result["rounds"]) == ("64x96", 11, 2)
