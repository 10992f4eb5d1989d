"""Files that hold a network's tensors by name: torch's, safetensors' or MindSpore's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.checkpoint import FORMAT, CheckpointError, check_content, is_torch_file, read_torch_file
from trainer.weights.mindspore import read_mindspore_checkpoint

OWN, TORCH, SAFETENSORS, MINDSPORE = "checkpoint of ours", "torch file", "safetensors file", "MindSpore checkpoint"
# Where frameworks keep the network in a larger dictionary, the best first: timm prefers the averaged weights too.
_SECTIONS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "network",
    "net",
    "module",
    "weights",
)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """The tensors of a file.

    Attributes:
        path: The file.
        kind: ``OWN``, ``TORCH``, ``SAFETENSORS`` or ``MINDSPORE``.
        section: Keys that lead to the tensors in a nested file, e.g. ``model``; empty if it is not nested.
        tensors: Name to tensor, as stored.
        others: Entries beside them that were not read.
        checkpoint: The whole content of a checkpoint of ours; empty for other kinds.
    """

    path: Path
    kind: str
    section: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    checkpoint: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        section = f", section {self.section}" if self.section else ""
        return f"{self.path} ({self.kind}{section})"


def read_weights(path: Path) -> WeightFile:
    """Read the tensors of a ``.pth``, ``.pt``, ``.bin``, ``.safetensors`` or MindSpore ``.ckpt`` file.

    A torch file may nest its state dict, e.g. below ``state_dict`` or ``model``; averaged weights come first. No code
    of the file is run.

    Raises:
        CheckpointError: The file is absent, damaged, or holds no tensors by name.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    if is_torch_file(path):
        return _find_tensors(path, read_torch_file(path))
    try:
        tensors = read_mindspore_checkpoint(path)
    except ValueError as error:
        raise CheckpointError(f"{path} is neither a torch file nor a MindSpore checkpoint: {error}") from error
    return _refuse_empty(WeightFile(path, MINDSPORE, "", tensors))


def _read_safetensors(path: Path) -> WeightFile:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    return _refuse_empty(WeightFile(path, SAFETENSORS, "", tensors))


def _find_tensors(path: Path, content: dict[str, Any]) -> WeightFile:
    """Go down to the dictionary that holds the tensors."""
    if content.get("format") == FORMAT:
        check_content(path, content)
        return _refuse_empty(WeightFile(path, OWN, "", dict(content["weights"]), checkpoint=content))
    sections: list[str] = []
    others: list[str] = []
    while (section := _section(content)) is not None:
        others += [".".join([*sections, str(name)]) for name in content if name != section]
        sections.append(section)
        content = content[section]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    others += [".".join([*sections, str(name)]) for name in content if str(name) not in tensors]
    return _refuse_empty(WeightFile(path, TORCH, ".".join(sections), tensors, tuple(others)))


def _section(content: Mapping[str, Any]) -> str | None:
    nested = [name for name, value in content.items() if isinstance(value, Mapping)]
    known = [name for name in _SECTIONS if name in nested]
    if known:
        return known[0]
    holders = [name for name in nested if any(isinstance(value, Tensor) for value in content[name].values())]
    return holders[0] if len(holders) == 1 else None


def _refuse_empty(file: WeightFile) -> WeightFile:
    if not file.tensors:
        entries = f"; its entries are {', '.join(file.others)}" if file.others else ""
        raise CheckpointError(f"{file} holds no tensors by name{entries}")
    return file
