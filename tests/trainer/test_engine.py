"""The loops: one batch can be overfitted, batches follow from their seed, predictors keep the image's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import LossWeights
from trainer.datasets import CamVid
from trainer.engine import (
    AugmentedViews,
    DivergedError,
    TrainingState,
    epoch_batches,
    evaluate,
    normalise,
    torch_predictor,
    train_one_epoch,
)
from trainer.losses import Losses
from trainer.model.ecenet import ECENet
from trainer.schedule import MovingAverage
from trainer.transforms import Augmentation

VIEW = Augmentation((48, 64), (48, 64), (1.0, 1.0), 0.0, 0.0)


def state_of(model: ECENet, lr: float = 3e-3) -> TrainingState:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return TrainingState(model, MovingAverage(model, 0.9), optimizer, scheduler)


def train(state: TrainingState, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    losses: list[float] = []
    train_one_epoch(
        state,
        batches,
        loss_weights=LossWeights(),
        class_weights=None,
        precision="fp32",
        clip_norm=5.0,
        on_step=lambda terms: losses.append(float(torch.stack(terms).sum())),
    )
    return losses


def test_one_batch_is_overfitted(tiny_model: ECENet, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "val")
    batch = next(iter(epoch_batches(AugmentedViews(dataset, VIEW, 0, 0), 2, 0)))
    state = state_of(tiny_model)
    losses = train(state, [batch] * 150)
    assert losses[-1] < 0.3 * losses[0]
    assert evaluate(torch_predictor(tiny_model.eval(), (48, 64)), dataset).accuracy > 0.9


def test_a_loss_that_is_no_number_stops_before_the_step(tiny_model: ECENet, tiny_camvid: Path) -> None:
    batch = next(iter(epoch_batches(AugmentedViews(CamVid(tiny_camvid, "val"), VIEW, 0, 0), 2, 0)))
    state = state_of(tiny_model)
    with torch.no_grad():
        tiny_model.decode_head.classifier.bias[0] = float("nan")
    before = tiny_model.decode_head.laterals[0].weight.clone()
    with pytest.raises(DivergedError, match="step 0: cross_entropy nan"):
        train(state, [batch])
    assert torch.equal(tiny_model.decode_head.laterals[0].weight, before)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_follow_from_seed_and_epoch(workers: int, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    augmentation = Augmentation((48, 64), (32, 32), (0.5, 2.0), 0.4)

    def images(seed: int, epoch: int, workers: int) -> torch.Tensor:
        views = AugmentedViews(dataset, augmentation, seed, epoch)
        return torch.cat([image for image, _ in epoch_batches(views, 3, workers)])

    first = images(0, 1, workers)
    assert first.shape == (6, 32, 32, 3)  # the last two of eight make no batch
    assert torch.equal(first, images(0, 1, 0))
    assert not torch.equal(first, images(0, 2, 0))
    assert not torch.equal(first, images(1, 1, 0))


def test_normalise_uses_the_models_statistics(tiny_model: ECENet) -> None:
    images = torch.full((1, 2, 2, 3), 124, dtype=torch.uint8)
    expected = (124 - torch.tensor(tiny_model.config.mean)) / torch.tensor(tiny_model.config.std)
    assert torch.allclose(normalise(images, tiny_model.config)[0, :, 1, 0], expected)


def test_a_predictor_answers_in_the_images_size(tiny_model: ECENet) -> None:
    image = np.zeros((37, 91, 3), np.uint8)
    labels = torch_predictor(tiny_model.eval(), (48, 64))(image)
    assert labels.shape == (37, 91)
    assert labels.max() < 11


def test_losses_are_named() -> None:
    assert Losses._fields == ("cross_entropy", "auxiliary", "diversity")
