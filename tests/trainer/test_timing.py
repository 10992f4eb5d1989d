"""The measurement before a run leaves no trace in it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from trainer.build import build_state
from trainer.config import load_config
from trainer.datasets import Sample
from trainer.distributed import Ranks
from trainer.timing import peak_memory_bytes, time_image, time_steps
from trainer.training_loop import StepSettings

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_timed_steps_are_taken_back() -> None:
    config = load_config(Path("default"), ["model.pretrained=none", "schedule.precision=fp32"])
    state = build_state(config, 3, steps_per_epoch=4, ranks=ALONE, precision="fp32")
    weights = {name: value.clone() for name, value in state.model.state_dict().items()}
    average = {name: value.clone() for name, value in state.average.model.state_dict().items()}
    batch = (torch.randint(0, 256, (2, 32, 64, 3), dtype=torch.uint8), torch.zeros(2, 32, 64, dtype=torch.uint8))
    ticks = iter([0.0, 100.0, 102.0, 105.0])  # the first step is left out
    seconds = time_steps(state, [batch] * 3, StepSettings(config.loss), ALONE, clock=lambda: next(ticks))
    assert seconds == 2.5
    assert (state.step, state.epoch_sums.abs().sum().item(), state.optimizer.state_dict()["state"]) == (0, 0.0, {})
    assert state.scheduler.last_epoch == 0
    assert all(torch.equal(value, weights[name]) for name, value in state.model.state_dict().items())
    assert all(torch.equal(value, average[name]) for name, value in state.average.model.state_dict().items())


def test_an_image_is_timed_once_it_has_been_seen() -> None:
    seen: list[Any] = []
    sample = Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    ticks = count(10.0, 4.0)
    seconds = time_image(seen.append, cast(Any, [sample]), clock=lambda: next(ticks))  # type: ignore[arg-type]
    assert (seconds, len(seen)) == (4.0, 2)


def test_the_memory_of_this_process_is_more_than_pytorch_takes() -> None:
    assert 1e8 < peak_memory_bytes(torch.device("cpu")) < 1e12


def test_the_memory_on_a_gpu_is_what_pytorch_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(max_memory_allocated=lambda _device: 123))
    assert peak_memory_bytes(cast(torch.device, SimpleNamespace(type="cuda"))) == 123
