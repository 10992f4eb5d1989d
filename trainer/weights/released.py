"""The network that the shapes of the authors' released weights describe."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

from trainer.model.ecenet import ECENet, ModelConfig, build_backbone, build_head
from trainer.weights.released_keys import (
    BACKBONE_PREFIX,
    DERIVED,
    HEAD_PREFIX,
    ReleasedWeights,
    check_keys,
    misfit,
    released_weights,
)
from trainer.weights.released_names import patch_order, released_name

_RELEASED_HEADS = 4
_UNFIT = "the weights do not fit the network that they describe"


def build_from_released(state: Mapping[str, Tensor]) -> nn.Module:
    """Build the network that a released state dict describes and load it.

    Returns:
        In eval mode: an ``ECENet``, or the decode head or the backbone alone if the file holds only that.

    Raises:
        StateDictError: Keys are missing, extra or misshapen.
    """
    return build_network(released_weights(state))


def build_network(weights: ReleasedWeights) -> nn.Module:
    """``build_from_released`` for weights whose keys are sorted already."""
    config = infer_config(weights.tensors)
    module: nn.Module
    if weights.has_backbone and weights.has_head:
        module, prefix = ECENet(config), ""
    elif weights.has_backbone:
        module, prefix = build_backbone(config), BACKBONE_PREFIX
    else:
        module, prefix = build_head(config, _stage_channels(weights.tensors)), HEAD_PREFIX
    _load(module, prefix, weights)
    return module.eval()


def infer_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """The configuration of the network, by the shapes of a released state dict.

    Each value is read from several tensors and the majority counts, so that one misshapen tensor is reported as such.

    Raises:
        StateDictError: All the tensors that a value can be read from are missing.
    """
    head = _Shapes(state, HEAD_PREFIX)
    swin = _Shapes(state, BACKBONE_PREFIX)
    channels = num_classes = num_heads = 0
    if head.shapes:
        channels = head.majority("conv_seg.weight:1", "proj.bn.weight:0", "trans.weight:1", "laterals.0.weight:0")
        num_classes = head.majority("conv_seg.bias:0", "conv_seg.weight:0", "trans.bias:0", "learner.1.weight:0")
        num_heads = _num_heads(channels, head.majority("learner.0.weight:1"))
    if not swin.shapes:
        return ModelConfig(backbone="swin", num_classes=num_classes, channels=channels, num_heads=num_heads)
    embed_dim = swin.majority("patch_embed.projection.weight:0", "patch_embed.norm.weight:0", "norm0.weight:0")
    depths = tuple(swin.count(rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
    tables = [
        f"stages.{s}.blocks.{b}.attn.w_msa.relative_position_bias_table" for s in range(4) for b in range(depths[s])
    ]
    table_rows = swin.majority(*(f"{name}:0" for name in tables))
    hidden = swin.majority("stages.0.blocks.0.ffn.layers.0.0.bias:0", "stages.0.blocks.0.ffn.layers.0.0.weight:0")
    return ModelConfig(
        backbone="swin",
        num_classes=num_classes,
        channels=channels,
        num_heads=num_heads,
        embed_dim=embed_dim,
        depths=depths,
        swin_heads=tuple(swin.majority(*(f"{n}:1" for n in tables if n.startswith(f"stages.{s}."))) for s in range(4)),
        window_size=(math.isqrt(table_rows) + 1) // 2,
        mlp_ratio=hidden / embed_dim,
    )


class _Shapes:
    """Shapes of the tensors below a prefix, and values read from them."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str) -> None:
        self.prefix = prefix
        self.shapes = {
            name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in state.items() if name.startswith(prefix)
        }

    def majority(self, *sources: str) -> int:
        """The commonest length among ``name:axis`` sources."""
        lengths: Counter[int] = Counter()
        for source in sources:
            name, axis = source.rsplit(":", 1)
            shape = self.shapes.get(name, ())
            lengths.update(shape[int(axis) : int(axis) + 1])
        if not lengths:
            missing = [self.prefix + source.rsplit(":", 1)[0] for source in sources]
            check_keys(_UNFIT, missing, [], [])
        return lengths.most_common(1)[0][0]

    def count(self, pattern: str) -> int:
        """The count of numbers 0, 1, 2, … that the group of ``pattern`` takes without a gap; at least one."""
        found = {int(match[1]) for match in map(re.compile(pattern).match, self.shapes) if match}
        return next(number for number in range(len(found) + 1) if number not in found) or 1


def _num_heads(channels: int, group_width: int) -> int:
    """Attention heads of the decode head; the release's number if the one tensor that states it is misshapen."""
    if group_width and channels % group_width == 0:
        return channels // group_width
    return math.gcd(channels, _RELEASED_HEADS)


def _stage_channels(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    head = _Shapes(state, HEAD_PREFIX)
    return tuple(
        head.majority(f"laterals.{i}.weight:1", f"norms.{i}.weight:0", f"layer_slcts.{i}.conv_out.weight:0")
        for i in range(4)
    )


def _load(module: nn.Module, prefix: str, weights: ReleasedWeights) -> None:
    own = {name: tensor for name, tensor in module.state_dict().items() if not name.endswith(DERIVED)}
    names = {released_name(prefix + name): name for name in own}
    state, origins = weights.tensors, weights.origins
    missing = sorted(names.keys() - state.keys())
    extra = sorted(origins[name] for name in state.keys() - names.keys())
    misshapen = [
        misfit(origins[name], state[name], own[ours])
        for name, ours in names.items()
        if name in state and state[name].shape != own[ours].shape
    ]
    check_keys(_UNFIT, missing, extra, misshapen)
    loaded = {ours: patch_order(name, state[name]) for name, ours in names.items()}
    module.load_state_dict(loaded, strict=False)  # strictness is above; only derived buffers are left
