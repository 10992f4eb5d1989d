"""The progress of a run: its means, its rates, and what the bar says."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.losses import Losses
from trainer.progress import Progress


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def losses(*values: float) -> Losses:
    return Losses(*(torch.tensor(value) for value in values))


def test_means_are_of_the_epoch_alone() -> None:
    progress = Progress(2, 2, silent=True)
    with progress.epoch(0):
        progress(losses(1, 0, 2, 3, 4))
        progress(losses(3, 1, 4, 5, 6))
    means = {"cross_entropy": 2, "overlap": 0.5, "auxiliary": 3, "diversity": 4, "presence": 5}
    assert progress.mean() == {f"loss_{name}": mean for name, mean in means.items()}
    with progress.epoch(1):
        progress(losses(8, 8, 8, 8, 8))
        assert set(progress.mean().values()) == {8.0}


def test_the_time_left_counts_what_happens_between_epochs() -> None:
    clock = Clock()
    progress = Progress(5, 4, images=6, clock=clock, silent=True)
    assert math.isnan(progress.seconds_left)
    assert progress.images_per_s == 0
    with progress.epoch(0):
        for _ in range(4):
            clock.now += 2
            progress(losses(1, 1, 1, 1, 1))
    assert progress.seconds == 8
    assert progress.images_per_s == pytest.approx(6 / 2)
    clock.now += 12  # an evaluation
    assert progress.seconds_left == pytest.approx((8 + 12) / 4 * 16)
    with progress.epoch(1):
        assert progress.seconds == 0


def test_a_resumed_run_counts_only_its_own_steps() -> None:
    clock = Clock()
    progress = Progress(5, 4, done=10, clock=clock, silent=True)
    with progress.epoch(2):
        clock.now += 3
        progress(losses(1, 1, 1, 1, 1))
    assert progress.seconds_left == pytest.approx(3 * 9)


def test_the_bar_tells_epoch_eta_rate_and_losses(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    progress = Progress(3, 2, images=8, clock=clock)
    with progress.epoch(0):
        for _ in range(2):
            clock.now += 30
            progress(losses(1.25, 0.75, 0.5, 0.125, 0.125), lr=3e-4)
    drawn = capsys.readouterr().err
    last = drawn.split("\r")[-1]
    assert last.startswith("epoch 1/3:  33%|")
    assert "| 2/6 [" in last
    terms = "cross_entropy 1.250, overlap 0.750, auxiliary 0.500, diversity 0.125, presence 0.125]"
    assert f"ETA 02:00, 0.3 images/s, lr 3.00e-04, {terms}" in last


def test_without_a_learning_rate_the_bar_leaves_it_out(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1, 1)
    with progress.epoch(0):
        progress(losses(1, 1, 1, 1, 1))
    assert "lr " not in capsys.readouterr().err


def test_a_silent_progress_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1, 1, silent=True)
    with progress.epoch(0):
        progress(losses(1, 1, 1, 1, 1))
    assert capsys.readouterr().err == ""


def test_the_bar_closes_when_training_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(progress: Progress) -> None:
        with progress.epoch(0):
            progress(losses(1, 1, 1, 1, 1))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        fail(Progress(1, 2))
    assert capsys.readouterr().err.endswith("\n")
