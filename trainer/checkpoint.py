"""Checkpoints: our own files, and loading any file that holds ECENet's weights."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.weights.mindspore import read_mindspore_checkpoint
from trainer.model.ecenet import ECENet, ModelConfig
from trainer.weights.released import StateDictError, build_from_released

FORMAT = "ecenet-checkpoint-1"
_PICKLE_MAGIC = b"\x80"
# What a broken pickle may raise, by the documentation of pickle.UnpicklingError, and what was seen.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
)


class CheckpointError(ValueError):
    """A file that is no checkpoint, or that cannot be read or written."""


def save_checkpoint(path: Path, config: ModelConfig, weights: Mapping[str, Any], **entries: Any) -> None:
    """Write a checkpoint atomically: a reader sees the old file or the whole new one.

    Args:
        path: Where to; the folder is made.
        config: The network.
        weights: The state dict that ``load_model`` gives, the averaged weights in a training run.
        entries: What else belongs to it: classes, metrics, and the training state that resuming needs.

    Raises:
        CheckpointError: It cannot be written, as on a full disk; nothing is left of the attempt.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save({"format": FORMAT, "config": asdict(config), "weights": dict(weights), **entries}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # PyTorch reports a failed write as a RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(f"{path} cannot be written: {error}; what was there before is untouched") from error


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read one of our checkpoints as ``save_checkpoint`` wrote it.

    Raises:
        CheckpointError: Not a checkpoint of ours.
    """
    content = _read_torch_file(Path(path))
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this trainer: its format is {content.get('format')!r}")
    return content


def load_model(path: Path | str) -> nn.Module:
    """Load the network of any file that holds ECENet's weights; sizes, heads, depths and windows follow from it.

    Args:
        path: A checkpoint of ours, the authors' MindSpore ``.ckpt``, or a torch file with the released state dict.

    Returns:
        In eval mode. The whole network takes normalised images (B, 3, H, W) float32 and gives logits at stride 4; a
        file with the decode head alone gives the head, which takes the four stage features; one with the Swin backbone
        alone gives the backbone.

    Raises:
        CheckpointError: No checkpoint at all.
        StateDictError: Missing, extra or misshapen keys; the text lists them all.
    """
    return load_model_and_entries(path)[0]


def load_model_and_entries(path: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """``load_model``, and what the file says besides its weights: see ``read_entries``."""
    path = Path(path)
    if not _is_torch_file(path):
        return _build_mindspore(path), {}
    content = _read_torch_file(path)
    if content.get("format") == FORMAT:
        return _build_own(content), entries_of(content)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name")
    return build_from_released(tensors), {}


def read_entries(path: Path | str) -> dict[str, Any]:
    """What a checkpoint of ours says besides its weights: classes, input size, metrics."""
    return entries_of(read_checkpoint(path))


def model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """A configuration from its stored fields; sequences become tuples."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return ModelConfig(**values)


def entries_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the content of a checkpoint of ours says besides its weights and its training."""
    hidden = {"format", "config", "weights", "training"}
    return {key: value for key, value in content.items() if key not in hidden}


def _build_mindspore(path: Path) -> nn.Module:
    try:
        return build_from_released(read_mindspore_checkpoint(path))
    except StateDictError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} is neither a torch file nor a MindSpore checkpoint: {error}") from error


def _build_own(content: Mapping[str, Any]) -> ECENet:
    model = ECENet(model_config(content["config"]))
    try:
        model.load_state_dict(content["weights"])
    except RuntimeError as error:
        raise StateDictError(str(error)) from error
    return model.eval()


def _is_torch_file(path: Path) -> bool:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file")
    with path.open("rb") as stream:
        return zipfile.is_zipfile(path) or stream.read(1) == _PICKLE_MAGIC


def _read_torch_file(path: Path) -> dict[str, Any]:
    if not _is_torch_file(path):
        raise CheckpointError(f"{path} is no torch file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNPICKLING_ERRORS, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dictionary")
    return content
