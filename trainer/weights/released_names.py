"""The names of the released weights, and the one order of channels in which the release differs from timm.

Source of the names: the ECENet release for MindSpore, ``decode_head.*`` and ``backbone.*`` (Swin). The backbone's are
mmsegmentation's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from trainer.weights.released_keys import BACKBONE_PREFIX, HEAD_PREFIX

Rules = Sequence[tuple[str, str]]
"""Patterns of the beginning of a name and what replaces it, see ``rename``."""

HEAD_RULES: Rules = [
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
BACKBONE_RULES: Rules = [
    # The release merges patches at the end of a stage, timm at the start of the next.
    *((rf"features\.layers_{stage}\.downsample\.", f"stages.{stage - 1}.downsample.") for stage in (1, 2, 3)),
    (r"features\.patch_embed\.proj\.", "patch_embed.projection."),
    (r"features\.patch_embed\.", "patch_embed."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.attn\.", r"stages.\1.blocks.\2.attn.w_msa."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.blocks.\2.ffn.layers.0.0."),
    (r"features\.layers_(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.blocks.\2.ffn.layers.1."),
    (r"features\.layers_(\d)\.blocks\.", r"stages.\1.blocks."),
    (r"norms\.(\d)\.", r"norm\1."),
]


def rename(name: str, rules: Rules) -> str:
    """Apply each rule to the beginning of a name, in turn."""
    for pattern, replacement in rules:
        name = re.sub(f"^{pattern}", replacement, name)
    return name


def released_name(name: str) -> str:
    """The release's name of one of our ``decode_head.*`` or ``backbone.*`` tensors."""
    for prefix, rules in ((HEAD_PREFIX, HEAD_RULES), (BACKBONE_PREFIX, BACKBONE_RULES)):
        if name.startswith(prefix):
            return prefix + rename(name.removeprefix(prefix), rules)
    raise ValueError(f"{name!r} belongs to neither backbone nor decode head")


def patch_order(name: str, tensor: Tensor) -> Tensor:
    """Reorder the four neighbours of patch merging: (channel, kh, kw) in the release, (kw, kh, channel) in timm.

    Args:
        name: Of a tensor of the Swin backbone; those of other layers are returned unchanged.
        tensor: (..., 4 C), in the release's order.
    """
    if ".downsample." not in name:
        return tensor
    return tensor.reshape(*tensor.shape[:-1], -1, 2, 2).transpose(-3, -1).flatten(-3)
