"""The two loops, as plain functions of what they use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from service.label_map import label_map
from service.preprocess import resize_to_input
from trainer.config import LossWeights
from trainer.datasets import SegmentationDataset
from trainer.losses import Losses, criterion
from trainer.metrics import ConfusionMatrix, Scores
from trainer.model.ecenet import ECENet, ModelConfig
from trainer.schedule import MovingAverage
from trainer.transforms import Augmentation

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Images (B, h, w, 3) uint8 of the network's size to logits (B, K, ceil(h / 4), ceil(w / 4))."""

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""An image (H, W, 3) uint8 to its label map (H, W) uint8."""


PRECISIONS = ("bf16", "fp32")


class DivergedError(RuntimeError):
    """A loss that is no number; the weights of the last checkpoint are the last good ones."""


class AugmentedViews(Dataset[tuple[Tensor, Tensor]]):
    """Views of one epoch. Each depends on seed, epoch and index alone, so workers and resuming change nothing."""

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int, epoch: int) -> None:
        self.dataset, self.augmentation, self.seed, self.epoch = dataset, augmentation, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        view = self.augmentation(self.dataset[index], rng)
        return torch.from_numpy(view.image), torch.from_numpy(view.labels)


def epoch_batches(views: AugmentedViews, batch_size: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of an epoch in an order that follows from its seed: images (B, H, W, 3) and labels (B, H, W), uint8."""
    order = np.random.default_rng((views.seed, views.epoch)).permutation(len(views)).tolist()
    return DataLoader(views, batch_size, sampler=order, num_workers=workers, drop_last=True)


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """Images (B, H, W, 3) uint8 to the model's input (B, 3, H, W) float32, in the channels-last layout."""
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


@dataclass(slots=True)
class TrainingState:
    """What a run changes, and what resuming restores."""

    model: ECENet
    average: MovingAverage[ECENet]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    step: int = 0


def train_one_epoch(
    state: TrainingState,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    loss_weights: LossWeights,
    class_weights: Tensor | None,
    precision: str,
    clip_norm: float,
    on_step: Callable[[Losses], None],
) -> None:
    """One pass: forward, loss, backward, clipped step, and the moving average.

    Raises:
        DivergedError: The loss is NaN or infinite; no step was taken with it.
    """
    state.model.train()
    for images, labels in batches:
        with autocast(precision):
            output = state.model(normalise(images, state.model.config))
        losses = criterion(output, labels.long(), loss_weights, class_weights)
        total = torch.stack(losses).sum()
        if not torch.isfinite(total):
            terms = ", ".join(f"{name} {term.item():g}" for name, term in zip(losses._fields, losses, strict=True))
            raise DivergedError(f"the loss is no number at step {state.step}: {terms}")
        state.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(state.model.parameters(), clip_norm)
        state.optimizer.step()
        state.scheduler.step()
        state.average.update(state.model, state.step)
        state.step += 1
        on_step(Losses(*(term.detach() for term in losses)))


def evaluate(
    predict: Predictor, dataset: SegmentationDataset, progress: Callable[[range], Iterable[int]] = iter
) -> Scores:
    """Scores of a predictor on every image of a dataset, one pass each, at the images' own size."""
    matrix = ConfusionMatrix(len(dataset.classes))
    for index in progress(range(len(dataset))):
        sample = dataset[index]
        matrix.update(sample.labels, predict(sample.image))
    return matrix.scores()


def image_predictor(infer: Infer, input_size: tuple[int, int]) -> Predictor:
    """A predictor around a network: resize, network, label map at the image's size, as the service does it."""

    def predict(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        logits = infer(resize_to_input(image, input_size)[None])
        return label_map(logits[0], (image.shape[0], image.shape[1]))

    return predict


def torch_predictor(model: ECENet, input_size: tuple[int, int]) -> Predictor:
    """A network in eval mode as a predictor."""

    @torch.inference_mode()
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: Any = model(normalise(torch.from_numpy(np.array(images)), model.config))
        return cast(NDArray[np.float32], logits.numpy())

    return image_predictor(infer, input_size)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """Autocast of a precision: ``bf16`` or ``fp32``."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
