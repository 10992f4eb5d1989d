"""Backbones as four stage features: image (B, 3, H, W) to (B, C_i, ceil(H / 4·2^i), ceil(W / 4·2^i)).

Both families come from timm's ``features_only``. Swin is adapted to the released ECENet code, so that the authors'
weights run as the same network: it pads to full windows before it shifts, and normalises all four outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.model.timm_loader import import_timm

STRIDES = (4, 8, 16, 32)


class ConvBackbone(nn.Module):
    """A convolutional backbone of timm, by its name, e.g. ``tf_efficientnet_lite0``."""

    def __init__(self, name: str, *, drop_path: float = 0.0) -> None:
        super().__init__()
        rate = {"drop_path_rate": drop_path} if drop_path else {}  # not every family has one
        self.features = import_timm().create_model(
            name, features_only=True, out_indices=(1, 2, 3, 4), pretrained=False, **rate
        )
        if tuple(self.features.feature_info.reduction()) != STRIDES:
            raise ValueError(
                f"backbone {name!r} has strides {self.features.feature_info.reduction()}, expected {STRIDES}"
            )
        self.channels: tuple[int, ...] = tuple(self.features.feature_info.channels())

    def forward(self, image: Tensor) -> list[Tensor]:
        return cast(list[Tensor], self.features(image))


class SwinBackbone(nn.Module):
    """Swin Transformer (Liu et al., ICCV 2021) as the released ECENet code runs it.

    Args:
        embed_dim: Channels of the first stage; each further stage doubles them.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        window_size: Side of the attention windows in tokens.
        mlp_ratio: Hidden channels of the MLPs per channel.
        drop_path: Largest rate of stochastic depth; rates grow linearly from 0 with depth.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = import_timm().create_model(
            "swin_tiny_patch4_window7_224",
            features_only=True,
            pretrained=False,
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path,
            img_size=32 * window_size,
            strict_img_size=False,
            always_partition=True,
        )
        self.channels: tuple[int, ...] = tuple(embed_dim * 2**stage for stage in range(len(depths)))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)
        masks = _WindowMasks()
        for module in self.features.modules():
            if hasattr(module, "shift_size"):
                module._attn = _WindowShift(module, masks)
                module.register_buffer("attn_mask", None, persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[2:]
        stages = self.features(F.pad(image, (0, -width % STRIDES[0], 0, -height % STRIDES[0])))
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, stages, strict=True)]


@contextmanager
def fused_window_attention(module: nn.Module) -> Iterator[None]:
    """Meanwhile each of Swin's window attentions is one fused operator, which an export writes as one ``Attention``."""
    attentions = [cast(Any, part) for part in module.modules() if hasattr(part, "fused_attn")]
    before = [part.fused_attn for part in attentions]
    try:
        for part in attentions:
            part.fused_attn = True
        yield
    finally:
        for part, was in zip(attentions, before, strict=True):
            part.fused_attn = was


class _WindowMasks:
    """The masks of the last sizes, shared by the blocks of a backbone; no part of its state."""

    KEPT = 8  # four stages of two sizes, as those of training and evaluation

    def __init__(self) -> None:
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def get(self, like: Tensor, *, rows: int, columns: int, window_size: int, shift: int) -> Tensor:
        """The mask for ``rows`` times ``columns`` windows, on the device and in the type of a tensor."""
        if torch.compiler.is_compiling():  # what a compiler or an export traces is not a tensor to keep
            return shifted_window_mask(rows, columns, window_size, shift, like.device).to(like.dtype)
        key = (rows, columns, window_size, shift, like.device, like.dtype)
        if key not in self._masks:
            if len(self._masks) == self.KEPT:
                del self._masks[next(iter(self._masks))]
            with torch.inference_mode(False):  # a tensor of inference mode cannot be trained with
                self._masks[key] = shifted_window_mask(rows, columns, window_size, shift, like.device).to(like.dtype)
        return self._masks[key]


class _WindowShift:
    """Shifted window attention of one block: pads to full windows, then rolls, masked on the padded size.

    timm rolls before it pads; the two differ wherever a stage is not a multiple of the window. A plain callable and no
    module, so that the block keeps its parameters and its state dict.
    """

    def __init__(self, block: nn.Module, masks: _WindowMasks) -> None:
        self.masks = masks
        self.attention: Any = block.attn
        self.window: int = cast(tuple[int, int], block.window_size)[0]
        self.shift: int = cast(tuple[int, int], block.shift_size)[0]

    def __call__(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        w, s = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        x = torch.roll(x, (-s, -s), (1, 2)) if s else x
        windows = x.reshape(batch, rows, w, columns, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        mask = self.masks.get(x, rows=rows, columns=columns, window_size=w, shift=s) if s else None
        if self.attention.fused_attn:
            bias = x.new_zeros(rows * columns, w * w, w * w) if mask is None else mask
            windows = self._attend_fused(windows, bias)
        else:
            windows = self.attention(windows, mask=mask)
        x = windows.reshape(batch, rows, columns, w, w, channels).transpose(2, 3).reshape(x.shape)
        x = torch.roll(x, (s, s), (1, 2)) if s else x
        return x[:, :height, :width]

    def _attend_fused(self, windows: Tensor, mask: Tensor) -> Tensor:
        """Attention with the windows of an image as further heads.

        Position bias and mask are then one constant without a batch axis, as TensorRT wants it to fuse the attention.

        Args:
            windows: (B * W, N, C), W windows of N tokens per image.
            mask: (W, N, N), added to the scores.
        """
        attention, count, (rows, tokens, channels) = self.attention, len(mask), windows.shape
        heads = attention.num_heads
        query_key_value = attention.qkv(windows).reshape(-1, count, tokens, 3, heads, channels // heads)
        query, key, value = query_key_value.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)  # (B, W * h, N, d) each
        bias = (attention._get_rel_pos_bias() + mask[:, None]).flatten(0, 1)[None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        merged = attended.reshape(-1, count, heads, tokens, channels // heads).transpose(2, 3)
        return cast(Tensor, attention.proj(merged.reshape(rows, tokens, channels)))


def shifted_window_mask(rows: int, columns: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """Mask of the tokens that may attend to each other after a cyclic shift: 0 between former neighbours, else -100.

    Returns:
        (rows · columns, window_size², window_size²) float32, for windows in row-major order.
    """
    region = _wrapped_regions(rows, window_size, shift, device)[:, None, :, None] * 3
    region = region + _wrapped_regions(columns, window_size, shift, device)[None, :, None, :]
    region = region.reshape(rows * columns, window_size * window_size)
    return torch.where(region[:, :, None] == region[:, None, :], 0.0, -100.0)


def _wrapped_regions(windows: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """Along one axis of a shifted map: 0 before the last window, 1 its unwrapped part, 2 its wrapped part."""
    length = windows * window_size
    regions = [0] * (length - window_size) + [1] * (window_size - shift) + [2] * shift
    return torch.tensor(regions, device=device).reshape(windows, window_size)
