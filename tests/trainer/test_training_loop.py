"""The loops: one batch can be overfitted, batches follow from their seed, predictors keep the image's size."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config import LossWeights
from trainer.datasets import CamVid, DatasetError
from trainer.datasets.base import Sample
from trainer.distributed import Ranks, rank_batches
from trainer.losses import Losses
from trainer.model.ecenet import ECENet
from trainer.prediction.evaluation import evaluate
from trainer.prediction.predictor import network_predictor
from trainer.prediction.pytorch import normalise, pytorch_network
from trainer.schedule import MovingAverage
from trainer.training_loop import (
    AugmentedViews,
    Batch,
    BatchLoader,
    DivergedError,
    StepSettings,
    TrainingState,
    epoch_order,
    train_steps,
)
from trainer.transforms import Augmentation

ALONE = Ranks(0, 1, torch.device("cpu"))
VIEW = Augmentation((48, 64), (48, 64), (1.0, 1.0), 0.0, 0.0)


def state_of(
    model: ECENet, lr: float = 3e-3, optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
) -> TrainingState:
    optimizer = optimizer_class(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return TrainingState(model, MovingAverage(model, 0.9), optimizer, scheduler)


def train(state: TrainingState, batches: list[Batch], parts: int = 1) -> list[float]:
    settings = StepSettings(LossWeights(), parts=parts)
    return [float(torch.stack(values.losses).sum()) for values in chain(*train_steps(state, batches, settings, ALONE))]


def weight_of(model: ECENet) -> torch.Tensor:
    return model.get_parameter("decode_head.laterals.0.weight")


def batch_of(dataset: CamVid, indices: list[int], augmentation: Augmentation = VIEW, workers: int = 0) -> Batch:
    (batch,) = BatchLoader(partial(AugmentedViews, dataset, augmentation, 0), workers)(0, [indices])
    return batch


def test_one_batch_is_overfitted(tiny_model: ECENet, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "val")
    batch = batch_of(dataset, [0, 1])
    steps = train_steps(state_of(tiny_model, lr=2e-2), [batch] * 40, StepSettings(LossWeights()), ALONE)
    losses = torch.stack([torch.stack(values.losses) for values in chain(*steps)])
    first, last = Losses(*losses[0]), Losses(*losses[-10:].median(0).values)  # dropout makes single steps jump
    assert last.cross_entropy < 0.25 * first.cross_entropy
    assert last.auxiliary < 0.9 * first.auxiliary
    assert last.diversity < 0.9 * first.diversity
    assert last.presence < 0.9 * first.presence
    assert evaluate(network_predictor(pytorch_network(tiny_model.eval(), (48, 64))), dataset).scores().accuracy > 0.75


def test_a_loss_that_is_no_number_stops_before_the_step(tiny_model: ECENet, tiny_camvid: Path) -> None:
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    state = state_of(tiny_model)
    with torch.no_grad():
        tiny_model.get_parameter("decode_head.classifier.bias")[0] = float("nan")
    before = weight_of(tiny_model).clone()
    with pytest.raises(DivergedError, match="step 0: cross_entropy nan"):
        train(state, [batch])
    assert torch.equal(weight_of(tiny_model), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_follow_from_seed_and_epoch(workers: int, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    augmentation = Augmentation((48, 64), (32, 32), (0.5, 2.0), 0.4)

    def images(seed: int, epoch: int, workers: int) -> torch.Tensor:
        load = BatchLoader(partial(AugmentedViews, dataset, augmentation, seed), workers)
        batches = rank_batches(epoch_order(seed, epoch, len(dataset)), batch_size=3, parts=1, ranks=ALONE)
        return torch.cat([image for image, _ in load(epoch, batches)])

    first = images(0, 1, workers)
    assert first.shape == (6, 32, 32, 3)  # the last two of eight make no batch
    assert torch.equal(first, images(0, 1, 0))
    assert not torch.equal(first, images(0, 2, 0))
    assert not torch.equal(first, images(1, 1, 0))


class Numbered:
    """A dataset whose image is the number of the process that reads it, and whose views tell their epoch."""

    def __init__(self, dataset: CamVid) -> None:
        self.name, self.classes, self.pairs = dataset.name, dataset.classes, dataset.pairs

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        number = np.full((48, 64), os.getpid(), np.int32)
        return Sample(
            np.ascontiguousarray(number.view(np.uint8).reshape(48, 64, 4)[..., :3]), np.zeros((48, 64), np.uint8)
        )

    def labels(self, index: int) -> NDArray[np.uint8]:
        return self[index].labels


@pytest.mark.parametrize("workers", [1, 2])
def test_the_processes_that_prepare_views_stay_from_epoch_to_epoch(workers: int, tiny_camvid: Path) -> None:
    """Also where an epoch is left before its end."""
    load = BatchLoader(partial(AugmentedViews, Numbered(CamVid(tiny_camvid, "train")), VIEW, 0), workers)
    first = {tuple(image[0, 0, 0].tolist()) for image, _ in load(0, [[0], [1], [2], [3]])}
    next(iter(load(1, [[0], [1], [2], [3]])))
    second = [tuple(image[0, 0, 0].tolist()) for image, _ in load(2, [[3], [2]])]
    assert len(first) == workers
    assert len(second) == 2
    assert set(second) <= first


def test_a_process_that_stays_gives_the_views_of_each_epoch(tiny_camvid: Path) -> None:
    dataset, augmentation = CamVid(tiny_camvid, "train"), Augmentation((48, 64), (32, 32), (0.5, 2.0), 0.4)
    stays, alone = (BatchLoader(partial(AugmentedViews, dataset, augmentation, 0), workers) for workers in (1, 0))
    for epoch in (0, 1, 0):
        (found,), (expected,) = (list(load(epoch, [[0, 1]])) for load in (stays, alone))
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


class Broken(Numbered):
    """A dataset of which no image can be read."""

    def __getitem__(self, index: int) -> Sample:
        raise DatasetError(f"image {index} is broken")


def test_no_process_is_left_after_an_error(tiny_camvid: Path) -> None:
    """Each leaves SIGTERM alone, with which Python would end it at its own end."""
    load = BatchLoader(partial(AugmentedViews, Broken(CamVid(tiny_camvid, "train")), VIEW, 0), 2)
    load.close()  # none was started yet
    with pytest.raises(DatasetError, match="image 3 is broken") as error:
        list(load(0, [[3], [2]]))
    assert len(multiprocessing.active_children()) == 2
    load.close()
    assert multiprocessing.active_children() == []
    assert error.value is not None  # whose frames hold the iterator


@pytest.mark.parametrize(("class_mix", "least", "most"), [(0.0, 0, 0), (0.5, 4, 5), (1.0, 7, 8)])
def test_views_are_mixed_with_others_by_chance(class_mix: float, least: int, most: int, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    plain, mixed = (AugmentedViews(dataset, VIEW, 1, 0, share) for share in (0.0, class_mix))
    different = [not torch.equal(plain[index][0], mixed[index][0]) for index in range(8)]
    assert least <= sum(different) <= most  # one that is mixed with itself stays as it is
    assert all(torch.equal(mixed[index][1], mixed[index][1]) for index in range(8))


def test_a_gradient_that_is_no_number_stops_before_the_step(tiny_model: ECENet, tiny_camvid: Path) -> None:
    state = state_of(tiny_model)
    tiny_model.decode_head.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight_of(tiny_model).clone()
    with pytest.raises(DivergedError, match="gradient is not a number at step 0"):
        train(state, [batch_of(CamVid(tiny_camvid, "val"), [0, 1])])
    assert torch.equal(weight_of(tiny_model), before)


def test_accumulated_parts_step_once_by_the_mean_of_their_gradients(tiny_model: ECENet, tiny_camvid: Path) -> None:
    dataset = CamVid(tiny_camvid, "train")
    tiny_model.decode_head.dropout.p = 0.0
    tiny_model.backbone.features.apply(lambda m: setattr(m, "drop_prob", 0.0) if hasattr(m, "drop_prob") else None)
    for module in tiny_model.modules():  # batch statistics are those of a part
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    batch = batch_of(dataset, [0, 1])
    once, twice = (state_of(copy.deepcopy(tiny_model)) for _ in range(2))
    assert len(train(twice, [batch, batch], parts=2)) == 1
    train(once, [batch])
    assert (once.step, twice.step) == (1, 1)
    for name, value in once.model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(twice.model.state_dict()[name], value, msg=name)


def test_a_step_follows_from_its_seed_and_number(tiny_model: ECENet, tiny_camvid: Path) -> None:
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(train(state_of(copy.deepcopy(tiny_model)), [batch] * 2))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_give_nearly_the_same_loss(precision: str, tiny_model: ECENet, tiny_camvid: Path) -> None:
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    expected = train(state_of(copy.deepcopy(tiny_model)), [batch])
    state = state_of(tiny_model)
    state.scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=256.0)
    before = weight_of(tiny_model).clone()
    ((values,),) = train_steps(state, [batch], StepSettings(LossWeights(), precision=precision), ALONE)
    assert float(torch.stack(values.losses).sum()) == pytest.approx(expected[0], rel=0.03)
    assert 0 < values.norm < 1e3
    assert not torch.equal(weight_of(tiny_model), before)


def test_normalise_uses_the_models_statistics(tiny_model: ECENet) -> None:
    images = torch.full((1, 2, 2, 3), 124, dtype=torch.uint8)
    expected = (124 - torch.tensor(tiny_model.config.mean)) / torch.tensor(tiny_model.config.std)
    assert torch.allclose(normalise(images, tiny_model.config)[0, :, 1, 0], expected)


def test_a_predictor_answers_in_the_images_size(tiny_model: ECENet) -> None:
    image = np.zeros((37, 91, 3), np.uint8)
    labels = network_predictor(pytorch_network(tiny_model.eval(), (48, 64)))(image)
    assert labels.shape == (37, 91)
    assert labels.max() < 11


def test_losses_are_named() -> None:
    assert Losses._fields == ("cross_entropy", "overlap", "auxiliary", "diversity", "presence")


def test_values_that_are_read_together_are_those_of_each_step(tiny_model: ECENet, tiny_camvid: Path) -> None:
    batches = [batch_of(CamVid(tiny_camvid, "train"), [index, index + 1]) for index in range(5)]
    each, together = (state_of(copy.deepcopy(tiny_model)) for _ in range(2))
    expected = list(chain(*train_steps(each, batches, StepSettings(LossWeights()), ALONE)))
    found = list(train_steps(together, batches, StepSettings(LossWeights(), read_every=2), ALONE))
    assert [[values.step for values in steps] for steps in found] == [[1, 2], [3, 4], [5]]
    for values, reference in zip(chain(*found), expected, strict=True):
        assert torch.equal(torch.stack(values.losses), torch.stack(reference.losses))
        assert (values.norm, values.lr) == (reference.norm, reference.lr)
    assert torch.equal(together.epoch_sums, each.epoch_sums)
    assert torch.equal(weight_of(together.model), weight_of(each.model))


def test_a_fault_is_told_with_its_step_when_the_values_are_read(tiny_model: ECENet, tiny_camvid: Path) -> None:
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    state = state_of(tiny_model)
    backward_passes = iter(range(4))
    tiny_model.decode_head.classifier.weight.register_hook(
        lambda gradient: gradient * (float("inf") if next(backward_passes) == 2 else 1.0)
    )
    steps = train_steps(state, [batch] * 4, StepSettings(LossWeights(), read_every=2), ALONE)
    assert [values.step for values in next(steps)] == [1, 2]
    with pytest.raises(DivergedError, match="gradient is not a number at step 2"):
        next(steps)


class HostSyncs(TorchDispatchMode):
    """Names operations that make the host wait for a GPU: it reads a number, or a size that follows from data."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masks = [index for index in args[1] if index is not None] if name in ("index", "index_put_") else []
        if name.startswith(self.NAMES) or any(mask.dtype == torch.bool for mask in masks):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("read_every", "reads"), [(1, 4), (4, 1)])
def test_steps_wait_for_the_gpu_only_to_read(
    read_every: int, reads: int, tiny_model: ECENet, tiny_camvid: Path
) -> None:
    """The numbers of a read come in one transfer, and none is asked for beside it. AdamW keeps its own on the CPU."""
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    settings = StepSettings(LossWeights(overlap=1.0), class_weights=torch.ones(11), read_every=read_every)
    state = state_of(tiny_model, optimizer_class=torch.optim.SGD)
    with HostSyncs() as syncs:
        assert len(list(train_steps(state, [batch] * 4, settings, ALONE))) == reads
    assert syncs.found == []


@pytest.mark.parametrize(("fused", "waits"), [(True, False), (False, True)])
def test_a_scaled_gradient_is_checked_where_it_is(
    fused: bool, waits: bool, tiny_model: ECENet, tiny_camvid: Path
) -> None:
    """An optimiser of one kernel leaves an overflown step out itself; the other one's host asks before each step."""
    batch = batch_of(CamVid(tiny_camvid, "val"), [0, 1])
    state = state_of(tiny_model, optimizer_class=partial(torch.optim.AdamW, fused=fused, foreach=False))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    factors = iter([1.0, float("inf"), float("inf"), float("inf")])
    tiny_model.decode_head.classifier.weight.register_hook(lambda gradient: gradient * next(factors))
    settings = StepSettings(LossWeights(), read_every=4)
    with HostSyncs() as syncs:
        (steps,) = train_steps(state, [batch] * 4, settings, ALONE)
    assert bool(syncs.found) == waits
    assert np.isfinite([values.norm for values in steps]).tolist() == [True, False, False, False]
    assert state.scaler.get_scale() == 2.0**13
    assert all(torch.isfinite(value).all() for value in tiny_model.state_dict().values())


def test_operations_that_wait_are_seen() -> None:
    numbers = torch.arange(3.0)
    with HostSyncs() as syncs:
        assert numbers[1].item() == 1
        assert numbers[numbers > 1].tolist() == [2]
        assert bool(torch.isfinite(numbers).all())
    assert syncs.found == ["_local_scalar_dense", "index", "_local_scalar_dense"]
