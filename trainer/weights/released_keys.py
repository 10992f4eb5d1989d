"""The keys of a released state dict, each accounted for: a weight, a derived buffer, or bookkeeping of the training.

Normalisation layers may carry PyTorch's names or MindSpore's (``gamma``, ``beta``, ``moving_mean``,
``moving_variance``), also mixed; a wrapping cell may put a prefix such as ``network.`` before the names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

HEAD_PREFIX = "decode_head."
BACKBONE_PREFIX = "backbone."
DERIVED = ("relative_position_index", "attn_mask", "num_batches_tracked")  # buffers that follow from the configuration

_MINDSPORE_SUFFIXES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_WRAPPER = re.compile(rf"((?:\w+\.)+?)(?={re.escape(BACKBONE_PREFIX)}|{re.escape(HEAD_PREFIX)})")
# State that MindSpore's optimisers (mindspore/nn/optim), loss scalers and checkpoint callback keep beside the weights.
_BOOKKEEPING = re.compile(
    r"(optimizer\.)?("
    r"(moments|moment1|moment2|vhat|adam_m|adam_v|lamb_m|lamb_v|accum|stat|mean_square|mean_gradient)\..+"
    r"|global_step|beta1_power|beta2_power|momentum|(learning_rate|weight_decay)\w*"
    r"|loss_scale|scale_sense|current_iterator_step|last_overflow_iterator_step"
    r"|(cur_)?(epoch|step)(_num)?)"
)


class StateDictError(ValueError):
    """Weights that do not describe the network; the text lists every missing, extra and misshapen key."""


@dataclass(frozen=True, slots=True)
class ReleasedWeights:
    """A released state dict under the release's own names, in PyTorch's style.

    Attributes:
        tensors: Name to weight, float32.
        origins: Each of these names to the name in the file.
        derived: Names in the file of buffers that follow from the configuration, not used.
        bookkeeping: Names in the file of the optimiser's and the training loop's state, not used.
    """

    tensors: dict[str, Tensor]
    origins: dict[str, str]
    derived: tuple[str, ...]
    bookkeeping: tuple[str, ...]

    @property
    def has_backbone(self) -> bool:
        return any(name.startswith(BACKBONE_PREFIX) for name in self.tensors)

    @property
    def has_head(self) -> bool:
        return any(name.startswith(HEAD_PREFIX) for name in self.tensors)


def released_weights(state: Mapping[str, Tensor]) -> ReleasedWeights:
    """Sort the keys of a released state dict, and give the weights their names.

    Names without ``backbone.`` and ``decode_head.`` count as those of the decode head alone.

    Raises:
        StateDictError: Two keys stand for the same tensor.
    """
    bookkeeping = tuple(filter(is_bookkeeping, state))
    derived = tuple(name for name in state if name.endswith(DERIVED) and name not in bookkeeping)
    names = {name: _plain_name(name) for name in state if name not in {*bookkeeping, *derived}}
    if not any(name.startswith((HEAD_PREFIX, BACKBONE_PREFIX)) for name in names.values()):
        names = {name: HEAD_PREFIX + plain for name, plain in names.items()}
    refuse_twins(names)
    origins = {plain: name for name, plain in names.items()}
    tensors = {plain: state[name].float() for name, plain in names.items()}
    return ReleasedWeights(tensors, origins, derived, bookkeeping)


def is_bookkeeping(name: str) -> bool:
    """True for a MindSpore parameter of the training, not of the network."""
    return _BOOKKEEPING.fullmatch(name) is not None


def torch_style(name: str) -> str:
    """The name with MindSpore's suffix of a normalisation layer, if it has one, in PyTorch's style."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{_MINDSPORE_SUFFIXES.get(suffix, suffix)}" if stem else name


def refuse_twins(names: Mapping[str, str]) -> None:
    """Refuse two names of a file for one tensor.

    Args:
        names: Each name in the file to the name of its tensor.

    Raises:
        StateDictError: There are such names; the text lists them.
    """
    counts = Counter(names.values())
    twins = sorted(name for name, plain in names.items() if counts[plain] > 1)
    if twins:
        raise StateDictError(f"these keys name the same tensors more than once: {', '.join(twins)}")


def check_keys(text: str, missing: Collection[str], extra: Collection[str], misshapen: Collection[str]) -> None:
    """Refuse weights with any missing, extra or misshapen key.

    Raises:
        StateDictError: There are such keys; ``text`` opens the message, which lists them all.
    """
    groups = {"missing": missing, "extra": extra, "misshapen": misshapen}
    listed = "; ".join(f"{title}: {', '.join(names)}" for title, names in groups.items() if names)
    if listed:
        raise StateDictError(f"{text}; {listed}")


def misfit(name: str, tensor: Tensor, own: Tensor) -> str:
    """An entry of the misshapen keys: name, shape, and the shape that was expected."""
    return f"{name} {tuple(tensor.shape)}, expected {tuple(own.shape)}"


def _plain_name(name: str) -> str:
    return torch_style(_WRAPPER.sub("", name, count=1) if _WRAPPER.match(name) else name)
