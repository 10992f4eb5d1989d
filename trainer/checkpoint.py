"""This trainer's checkpoints: the network's configuration, its weights, and what a run adds to them."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from service.model_directory.manifest import ClassInfo
from trainer.model.ecenet import ModelConfig

FORMAT = "ecenet-checkpoint-1"
_PICKLE_MAGIC = b"\x80"


class CheckpointError(ValueError):
    """A file of weights that cannot be read or written, or that holds none."""


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
        rest = "; the earlier file is unchanged" if path.exists() else ""
        with contextlib.suppress(OSError):
            rest = f" ({shutil.disk_usage(path.parent).free:,} bytes are free there){rest}"
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise CheckpointError(f"{path} cannot be written: {error}{rest}") from error


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint as ``save_checkpoint`` wrote it.

    Raises:
        CheckpointError: It is not a checkpoint of this trainer.
    """
    path = Path(path)
    if not is_torch_file(path):
        raise CheckpointError(f"{path} is not a torch file")
    content = read_torch_file(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this trainer: its format is {content.get('format')!r}")
    check_content(path, content)
    return content


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Check the entries of a checkpoint of this trainer, which an editor or a damaged disk may have changed.

    Raises:
        CheckpointError: One is missing or malformed; the text names it.
    """
    try:
        model_config(content["config"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not tell its network: 'config' is wrong ({error})") from None
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no tensors in 'weights'")
    size = content.get("input_size", (1, 1))
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise CheckpointError(f"{path} has the input size {size!r}, expected two numbers above 0")
    classes = content.get("classes", ())
    if not isinstance(classes, list | tuple):
        raise CheckpointError(f"{path} has the classes {classes!r}, expected a list")
    for entry in classes:
        if not isinstance(entry, dict) or not entry.keys() >= {"id", "name", "color"}:
            raise CheckpointError(f"{path} has the class {entry!r}, expected id, name and color")


def class_names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of a checkpoint's classes in the order of their ids; None where it does not state them."""
    return tuple(str(entry["name"]) for entry in content["classes"]) if "classes" in content else None


def read_entries(path: Path | str) -> dict[str, Any]:
    """Read the entries of a checkpoint beside its weights and its training: classes, input size, metrics."""
    return entries_of(read_checkpoint(path))


def entries_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a checkpoint's content beside its weights and its training."""
    hidden = {"format", "config", "weights", "training"}
    return {key: value for key, value in content.items() if key not in hidden}


def class_entries(classes: Iterable[ClassInfo]) -> list[dict[str, Any]]:
    """Classes as the entry ``classes`` of a checkpoint."""
    return [{"id": info.id, "name": info.name, "color": list(info.color)} for info in classes]


def model_config(fields: Mapping[str, Any]) -> ModelConfig:
    """A configuration from its stored fields; sequences become tuples."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return ModelConfig(**values)


def is_torch_file(path: Path) -> bool:
    """True for a file of ``torch.save``, by its first bytes.

    Raises:
        CheckpointError: There is no such file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    with path.open("rb") as stream:
        return zipfile.is_zipfile(path) or stream.read(1) == _PICKLE_MAGIC


def read_torch_file(path: Path) -> dict[str, Any]:
    """Read a dictionary that ``torch.save`` wrote. No code of the file is run.

    Raises:
        CheckpointError: The file is damaged, or holds something else than a dictionary of tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its arguments beside the weights
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may raise anything
        # PyTorch wraps the reason in advice to read the file without this protection.
        detail = re.search(r"(?:WeightsUnpickler error: |Unsupported global: )(\S.*)", str(error))
        reason = detail[1] if detail else f"it is damaged ({type(error).__name__})"
        raise CheckpointError(
            f"{path} cannot be read: {reason} (a file with other objects than tensors has to be saved again with its "
            "state dict alone)"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content
