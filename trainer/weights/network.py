"""The network of any file that holds ECENet's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from trainer.checkpoint import CheckpointError, entries_of, model_config
from trainer.model.ecenet import ECENet
from trainer.weights.files import WeightFile, read_weights
from trainer.weights.released import build_from_released
from trainer.weights.released_keys import StateDictError


def load_model(path: Path | str) -> nn.Module:
    """Load the network of a file; sizes, heads, depths and windows follow from it.

    Args:
        path: A checkpoint of ours, the authors' MindSpore ``.ckpt``, or a torch or safetensors file with the released
            state dict.

    Returns:
        In eval mode. The whole network takes normalised images (B, 3, H, W) float32 and gives logits at stride 4; a
        file with the decode head alone gives the head, which takes the four stage features; one with the Swin backbone
        alone gives the backbone.

    Raises:
        CheckpointError: The file holds no weights, or cannot be read.
        StateDictError: Missing, extra or misshapen keys; the text lists them all.
    """
    return load_model_and_entries(path)[0]


def load_model_and_entries(path: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """``load_model``, and the other entries of a checkpoint of ours: classes, input size, metrics."""
    file = read_weights(Path(path))
    return network_of(file), entries_of(file.checkpoint)


def network_of(file: WeightFile) -> nn.Module:
    """``load_model`` for a file that is read already."""
    if not file.checkpoint:
        return build_from_released(file.tensors)
    try:
        model = ECENet(model_config(file.checkpoint["config"]))
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{file.path}: 'config' makes no network: {error}") from error
    try:
        model.load_state_dict(file.checkpoint["weights"])
    except RuntimeError as error:
        raise StateDictError(str(error)) from error
    return model.eval()
