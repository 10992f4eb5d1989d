"""Start of a run: the network, its average and the optimiser, new or from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.checkpoint import CheckpointError, class_names, read_checkpoint
from trainer.config import ConfigError, TrainConfig, changed_keys
from trainer.datasets import SegmentationDataset
from trainer.distributed import Ranks
from trainer.model.ecenet import ECENet, named_config
from trainer.model.feature_reconstruction import FeatureReconstruction
from trainer.model.initialisation import stage_covariances, start_ghost_bilinear, start_reconstruction
from trainer.precision import keep_depthwise_in_float
from trainer.schedule import MovingAverage, build_optimizer
from trainer.sync_batchnorm import synchronise_batchnorm
from trainer.training_loop import TrainingState
from trainer.weights.pretrained import initialise

logger = logging.getLogger(__name__)

COARSEST_STRIDE = 32
"""Pixels of a view, along a side, per position of the last stage."""


def build_model(config: TrainConfig, num_classes: int) -> tuple[ECENet, bool]:
    """The network of a configuration with its first weights, in training mode.

    Returns:
        The network, and whether its head is new: not one that ``model.pretrained`` brought.

    Raises:
        ValueError: The size is unknown, or the pretrained weights do not fit.
    """
    section = config.model
    given = {name: value for name in ("dropout", "drop_path") if (value := getattr(section, name)) is not None}
    model = ECENet(replace(named_config(section.name, num_classes), **given))
    if section.bilinear_start:
        start_ghost_bilinear(model.decode_head)
    drawn = _lateral_weights(model)
    logger.info(initialise(model, section.pretrained))
    return model.train(), torch.equal(_lateral_weights(model), drawn)  # a backbone's file leaves the head unchanged


def _lateral_weights(model: ECENet) -> Tensor:
    """A copy of weights that belong to every head, whatever its classes."""
    return nn.utils.parameters_to_vector(model.decode_head.laterals.parameters()).detach().clone()


def build_state(
    config: TrainConfig, num_classes: int, *, steps_per_epoch: int, ranks: Ranks, precision: str
) -> TrainingState:
    """The network, its moving average, the optimiser and the learning rate's schedule, on the rank's device."""
    schedule, runtime = config.schedule, config.runtime
    torch.manual_seed(schedule.seed)
    model, has_new_head = build_model(config, num_classes)
    model = model.to(ranks.device)
    if runtime.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = MovingAverage(model, schedule.ema_decay)
    model.backbone.features.set_grad_checkpointing(runtime.gradient_checkpointing)
    if precision == "bf16" and ranks.device.type == "cpu":
        keep_depthwise_in_float(model)
    if schedule.sync_batchnorm and ranks.world_size > 1:
        model = cast(ECENet, synchronise_batchnorm(model, ranks.device))
    optimizer, scheduler = build_optimizer(
        model,
        lr=schedule.lr,
        head_lr_multiple=schedule.head_lr_multiple,
        classifier_lr_multiple=schedule.classifier_lr_multiple,
        weight_decay=schedule.weight_decay,
        layer_decay=schedule.layer_decay,
        total_steps=schedule.epochs * steps_per_epoch,
        warmup_steps=int(schedule.warmup_epochs * steps_per_epoch),
        power=schedule.power,
        fused=ranks.device.type == "cuda",
    )
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == "fp16")
    network = _wrap(model, ranks, compiled=runtime.compile)
    return TrainingState(model, average, optimizer, scheduler, scaler, network=network, has_new_head=has_new_head)


@torch.no_grad()
def start_at_principal_directions(state: TrainingState, images: Iterable[Tensor], ranks: Ranks, *, seed: int) -> None:
    """Start Feature Reconstruction of the network and its average from the backbone's features on a few batches.

    Args:
        state: Of a run that has done no step.
        images: This rank's batches of normalised images (B, 3, H, W); the features of all ranks count.
        ranks: All get the weights that the first one computes, so that they are equal whatever the machines are.
        seed: Of the random orthogonal matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    covariances = stage_covariances(state.model.backbone, images)
    for module, sums in zip(state.model.decode_head.feature_reconstruction, covariances, strict=True):
        assert isinstance(module, FeatureReconstruction)
        start_reconstruction(module, ranks.total(sums), generator)
        for weight in module.parameters():
            weight.copy_(ranks.total(weight if ranks.is_first else torch.zeros_like(weight)))
    state.average.model.load_state_dict(state.model.state_dict())


def check_trainable(config: TrainConfig, images: int, ranks: Ranks) -> None:
    """Refuse settings that no step can be done with.

    Args:
        config: The configuration.
        images: Of the training split.
        ranks: The processes of the run.

    Raises:
        ConfigError: The batch is larger than the training split, no loss reaches the classifier, or a batch norm would
            see one value of a channel.
    """
    schedule, loss = config.schedule, config.loss
    if images < schedule.batch_size:
        raise ConfigError(f"schedule.batch_size is {schedule.batch_size}, expected 1 to the {images} images")
    if not (loss.cross_entropy or loss.overlap):
        raise ConfigError("loss.cross_entropy and loss.overlap are 0, expected one above: the classifier has no other")
    shared = 1 if schedule.sync_batchnorm else ranks.world_size
    together = schedule.batch_size // (schedule.accumulate * shared)
    height, width = config.data.crop_size
    if together <= 1 and max(height, width) <= COARSEST_STRIDE:
        raise ConfigError(
            f"data.crop_size is {height}x{width}, which leaves a batch norm one value per channel where a process "
            f"computes one image at a time; expected more than {COARSEST_STRIDE} pixels on a side, or more images"
        )


def training_state(state: TrainingState) -> dict[str, Any]:
    """State for resuming, which a checkpoint holds beside the averaged weights."""
    return {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": state.scaler.state_dict(),
        "step": state.step,
        "epoch_sums": state.epoch_sums,
    }


def load_training_state(state: TrainingState, content: dict[str, Any]) -> None:
    """Restore what ``training_state`` gave, from a checkpoint as ``read_checkpoint`` reads it."""
    training = content["training"]
    state.average.model.load_state_dict(content["weights"])
    state.model.load_state_dict(training["model"])
    state.optimizer.load_state_dict(_with_own_settings(training["optimizer"], state.optimizer))
    _load_schedule(state, training["scheduler"])
    if training["scaler"]:  # empty where the run was not in fp16 before
        state.scaler.load_state_dict(training["scaler"])
    state.step = training["step"]
    sums = training["epoch_sums"]
    state.epoch_sums.zero_()[: len(sums)] = sums  # an older checkpoint has fewer terms


def _with_own_settings(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's saved moments with the settings of this one: those of the configuration and of the device.

    Raises:
        ConfigError: This one groups the weights otherwise, so that it is not known whose the moments are.
    """
    sizes, own_sizes = (
        [len(group["params"]) for group in groups] for groups in (saved["param_groups"], optimizer.param_groups)
    )
    if sizes != own_sizes:
        raise ConfigError(
            "rates or decays of [schedule] that were equal differ now, or the other way round, which the optimiser's "
            "state does not follow; take that back, or name the checkpoint as model.pretrained of a new run"
        )
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    return saved | {"param_groups": [group | own | {"params": group["params"]} for group, own in pairs]}


def _load_schedule(state: TrainingState, saved: dict[str, Any]) -> None:
    """Put the learning rates where the schedule of this configuration has them after the saved steps."""
    scheduler = state.scheduler
    factors = [factor(saved["last_epoch"]) for factor in scheduler.lr_lambdas]
    rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    scheduler.load_state_dict(saved | {"base_lrs": scheduler.base_lrs, "_last_lr": rates})
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def check_resumable(
    path: Path, config: TrainConfig, dataset: SegmentationDataset, *, accept_changes: bool
) -> dict[str, Any]:
    """Read a checkpoint that a run of this configuration may resume from.

    Args:
        path: The checkpoint.
        config: The configuration.
        dataset: The training split.
        accept_changes: Resume although the configuration or the number of images is another.

    Raises:
        CheckpointError: It cannot be read, or an entry that resuming needs is missing or malformed.
        ConfigError: It has no training state, its network or classes are others, or configuration or number of images
            are and that is not accepted.
    """
    content = read_checkpoint(path)
    if "training" not in content:
        raise ConfigError(f"{path} holds weights only; name it as model.pretrained to start from them")
    _check_training(path, content)
    names, own = class_names(content), tuple(info.name for info in dataset.classes)
    if names != own:
        raise ConfigError(
            f"{path} was trained on the classes {names}, the data has {own}, so the run cannot be resumed; to start "
            "from its weights, name it as model.pretrained of a new run"
        )
    if (name := content["train_config"]["model"]["name"]) != config.model.name:
        raise ConfigError(
            f"{path} holds the network {name}, the configuration names {config.model.name}, so the run cannot be "
            "resumed; to start from its weights, name it as model.pretrained of a new run"
        )
    images = len(dataset)
    changes = changed_keys(content["train_config"], config.as_dict())
    if content["train_images"] != images:
        changes.append(f"images of the training split: {content['train_images']} -> {images}")
    if changes and not accept_changes:
        raise ConfigError(
            f"the configuration is not the one that {path} was trained with: {'; '.join(changes)}. "
            "Take it back, or add --accept-changes; nothing was written"
        )
    return content


def _check_training(path: Path, content: dict[str, Any]) -> None:
    """Check the entries that resuming needs."""
    kinds = {"train_config": dict, "train_images": int, "training": dict}
    state = {"model": dict, "optimizer": dict, "scheduler": dict, "scaler": dict, "step": int, "epoch_sums": Tensor}
    for entries, types in ((content, kinds), (content["training"], state | {"log": list, "best_miou": float})):
        for name, kind in types.items():
            if not isinstance(entries.get(name), kind):
                raise CheckpointError(f"{path} cannot be resumed from: its entry {name!r} is missing or malformed")


def _wrap(model: ECENet, ranks: Ranks, *, compiled: bool) -> nn.Module:
    """Wrap the model for training: in DistributedDataParallel over several ranks, and compiled if asked."""
    network: nn.Module = model
    if ranks.world_size > 1:
        devices = [ranks.device.index] if ranks.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)
    return cast(nn.Module, torch.compile(network)) if compiled else network
