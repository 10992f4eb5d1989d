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

from trainer.checkpoint import class_names, read_checkpoint
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
    state.optimizer.load_state_dict(_on_this_device(training["optimizer"], state.optimizer))
    state.scheduler.load_state_dict(training["scheduler"])
    state.scaler.load_state_dict(training["scaler"])
    state.step = training["step"]
    sums = training["epoch_sums"]
    state.epoch_sums.zero_()[: len(sums)] = sums  # an older checkpoint has fewer terms


def _on_this_device(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's saved state with this one's way to compute, which is that of the device."""
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=True)
    return saved | {"param_groups": [group | {"fused": own.get("fused")} for group, own in pairs]}


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
        CheckpointError: It cannot be read.
        ConfigError: It has no training state, its classes are others, or configuration or number of images are and
            that is not accepted.
    """
    content = read_checkpoint(path)
    if "training" not in content:
        raise ConfigError(f"{path} holds weights only; name it as model.pretrained to start from them")
    names, own = class_names(content), tuple(info.name for info in dataset.classes)
    if names != own:
        raise ConfigError(
            f"{path} was trained on the classes {names}, the data has {own}, so the run cannot be resumed; to start "
            "from its weights, name it as model.pretrained of a new run"
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


def _wrap(model: ECENet, ranks: Ranks, *, compiled: bool) -> nn.Module:
    """Wrap the model for training: in DistributedDataParallel over several ranks, and compiled if asked."""
    network: nn.Module = model
    if ranks.world_size > 1:
        devices = [ranks.device.index] if ranks.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)
    return cast(nn.Module, torch.compile(network)) if compiled else network
