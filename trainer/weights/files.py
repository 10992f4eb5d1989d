"""Any file that holds a network's tensors by name: torch's, safetensors' or MindSpore's."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.checkpoint import FORMAT
from trainer.weights.mindspore import read_mindspore_checkpoint

OWN, TORCH, SAFETENSORS, MINDSPORE = "checkpoint of ours", "torch file", "safetensors file", "MindSpore checkpoint"
_PICKLE_MAGIC = b"\x80"
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


class WeightFileError(ValueError):
    """A file that holds no weights, or that cannot be read."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """The tensors of a file.

    Attributes:
        path: The file.
        kind: ``OWN``, ``TORCH``, ``SAFETENSORS`` or ``MINDSPORE``.
        section: Keys that lead to the tensors in a nested file, e.g. ``model``; empty if it is not nested.
        tensors: Name to tensor, as stored.
        others: Entries beside them that were not read.
    """

    path: Path
    kind: str
    section: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        section = f", section {self.section}" if self.section else ""
        return f"{self.path} ({self.kind}{section})"


def read_weights(path: Path) -> WeightFile:
    """Read the tensors of a ``.pth``, ``.pt``, ``.bin``, ``.safetensors`` or MindSpore ``.ckpt`` file.

    A torch file may nest its state dict, e.g. below ``state_dict`` or ``model``; averaged weights come first. No code
    of the file is run.

    Raises:
        WeightFileError: The file is absent, damaged, or holds no tensors by name.
    """
    if not path.is_file():
        raise WeightFileError(f"{path} does not exist or is no file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if _is_torch_file(path):
        return _find_tensors(path, _read_torch(path))
    try:
        file = WeightFile(path, MINDSPORE, "", read_mindspore_checkpoint(path))
    except ValueError as error:
        raise WeightFileError(f"{path} is neither a torch file nor a MindSpore checkpoint: {error}") from error
    return _refuse_empty(file)


def _is_torch_file(path: Path) -> bool:
    with path.open("rb") as stream:
        return zipfile.is_zipfile(path) or stream.read(1) == _PICKLE_MAGIC


def _read_safetensors(path: Path) -> WeightFile:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightFileError(f"{path} is no safetensors file: {error}") from error
    return _refuse_empty(WeightFile(path, SAFETENSORS, "", tensors))


def _read_torch(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its arguments beside the weights
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle may raise anything
        detail = re.search("WeightsUnpickler error: (.*)", str(error))  # PyTorch wraps it in advice for other callers
        reason = detail[1] if detail else str(error).split("\n", 1)[0]
        raise WeightFileError(
            f"{path} cannot be read: {reason} (a file with other objects than tensors has to be saved anew with its "
            "state dict alone)"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightFileError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def _find_tensors(path: Path, content: Mapping[str, Any]) -> WeightFile:
    """Go down to the dictionary that holds the tensors."""
    if content.get("format") == FORMAT:
        return _refuse_empty(WeightFile(path, OWN, "", dict(content.get("weights", {}))))
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
        raise WeightFileError(f"{file} holds no tensors by name{entries}")
    return file
