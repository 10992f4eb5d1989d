"""The authors' released weights: their key names, and the network that their shapes describe.

Source of the names: the ECENet release for MindSpore, ``decode_head.*`` and ``backbone.*`` (Swin).
"""

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
    StateDictError,
    list_keys,
    released_weights,
)

__all__ = ["StateDictError", "build_from_released", "build_network", "infer_config", "patch_order", "released_name"]

_RELEASED_HEADS = 4

# Our names to the release's, first match wins.
_HEAD_NAMES = [
    (r"classifier\.", "conv_seg."),
    (r"class_presence\.", "trans."),
    (r"initial_masks\.", "learner."),
    (r"class_extraction\.(\d)\.projection\.", r"token_emb.\1.cls_learner."),
    (r"semantics_attention\.(\d)\.norm_features\.", r"transfer.\1.norm_low."),
    (r"semantics_attention\.(\d)\.norm_classes\.", r"transfer.\1.norm_high."),
    (r"semantics_attention\.(\d)\.query\.0\.", r"transfer.\1.cross_attn.q.depthwise_conv.conv."),
    (r"semantics_attention\.(\d)\.query\.2\.", r"transfer.\1.cross_attn.q.pointwise_conv.conv."),
    (r"semantics_attention\.(\d)\.key_value\.", r"transfer.\1.cross_attn.kv."),
    (r"semantics_attention\.(\d)\.projection\.", r"transfer.\1.cross_attn.proj."),
    (r"semantics_attention\.(\d)\.mlp\.3\.", r"transfer.\1.mlp.4."),
    (r"semantics_attention\.", "transfer."),
    (r"updater\.(\d)\.input_output\.", r"gated_tokens.\1.dynamic_layer."),
    (r"updater\.(\d)\.current\.", r"gated_tokens.\1.input_layer."),
    (r"updater\.(\d)\.gate\.", r"gated_tokens.\1.update_gate."),
    (r"updater\.(\d)\.norm_gate\.", r"gated_tokens.\1.norm_in."),
    (r"updater\.(\d)\.norm_output\.", r"gated_tokens.\1.norm_out."),
    (r"updater\.(\d)\.projection\.", r"gated_tokens.\1.fc_layer."),
    (r"updater\.(\d)\.norm\.", r"gated_tokens.\1.fc_norm."),
    (r"upsample\.(\d)\.(\d)\.(primary|cheap)\.0\.", r"ghost_up_layers.\1.layers.\2.\3.conv."),
    (r"upsample\.(\d)\.(\d)\.(primary|cheap)\.1\.", r"ghost_up_layers.\1.layers.\2.\3.bn."),
    (r"fuse\.0\.", "proj.conv."),
    (r"fuse\.1\.", "proj.bn."),
    (r"feature_reconstruction\.(\d)\.norm\.", r"norms.\1."),
    (r"feature_reconstruction\.(\d)\.intrinsic\.", r"layer_slcts.\1.primary."),
    (r"feature_reconstruction\.(\d)\.diverse\.", r"layer_slcts.\1.cheap."),
    (r"feature_reconstruction\.(\d)\.gate\.", r"layer_slcts.\1.layer_channel_slct."),
    (r"feature_reconstruction\.(\d)\.fuse\.", r"layer_slcts.\1.conv_out."),
]
_BACKBONE_NAMES = [
    (r"features\.patch_embed\.proj\.", "patch_embed.projection."),
    (r"features\.patch_embed\.", "patch_embed."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.attn\.", r"stages.\1.blocks.\2.attn.w_msa."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.blocks.\2.ffn.layers.0.0."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.blocks.\2.ffn.layers.1."),
    (r"features\.layers_(\d)\.blocks\.", r"stages.\1.blocks."),
    (r"norms\.(\d)\.", r"norm\1."),
]


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


def released_name(name: str) -> str:
    """The release's name of one of our ``decode_head.*`` or ``backbone.*`` tensors."""
    for prefix, table in ((HEAD_PREFIX, _HEAD_NAMES), (BACKBONE_PREFIX, _BACKBONE_NAMES)):
        if name.startswith(prefix):
            return prefix + _translate(name.removeprefix(prefix), table)
    raise ValueError(f"{name!r} belongs to neither backbone nor decode head")


def infer_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """The configuration that the shapes of a released state dict tell.

    Each value is read from several tensors and the majority counts, so that one misshapen tensor is reported as such.

    Raises:
        StateDictError: None of the tensors that tell a value is there.
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
    """Shapes of the tensors below a prefix, and what they tell."""

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
            raise StateDictError(_report([self.prefix + source.rsplit(":", 1)[0] for source in sources], [], []))
        return lengths.most_common(1)[0][0]

    def count(self, pattern: str) -> int:
        """How many numbers 0, 1, 2, … the group of ``pattern`` takes without a gap; at least one."""
        found = {int(match[1]) for match in map(re.compile(pattern).match, self.shapes) if match}
        return next(number for number in range(len(found) + 1) if number not in found) or 1


def _num_heads(channels: int, group_width: int) -> int:
    """Heads of the head's attention; where the one tensor that tells them is misshapen, the release's."""
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
        f"{origins[name]} {tuple(state[name].shape)}, expected {tuple(own[ours].shape)}"
        for name, ours in names.items()
        if name in state and state[name].shape != own[ours].shape
    ]
    if missing or extra or misshapen:
        raise StateDictError(_report(missing, extra, misshapen))
    loaded = {ours: patch_order(name, state[name]) for name, ours in names.items()}
    module.load_state_dict(loaded, strict=False)  # strictness is above; only derived buffers are left


def _report(missing: list[str], extra: list[str], misshapen: list[str]) -> str:
    return f"the weights do not fit the network that they describe; {list_keys(missing, extra, misshapen)}"


def patch_order(name: str, tensor: Tensor) -> Tensor:
    """Patch merging's four neighbours: the release and mmsegmentation order (channel, kh, kw), timm (kw, kh, channel).

    Args:
        name: Of a tensor of the Swin backbone; those of other layers are given back as they are.
        tensor: (..., 4 C), in the release's order.
    """
    if ".downsample." not in name:
        return tensor
    return tensor.reshape(*tensor.shape[:-1], -1, 2, 2).transpose(-3, -1).flatten(-3)


def _translate(name: str, table: list[tuple[str, str]]) -> str:
    merging = re.match(r"features\.layers_(\d)\.downsample\.(.*)", name)
    if merging:  # the release merges at the end of a stage, timm at the start of the next
        return f"stages.{int(merging[1]) - 1}.downsample.{merging[2]}"
    for pattern, replacement in table:
        renamed, count = re.subn(f"^{pattern}", replacement, name)
        if count:
            return renamed
    return name
