"""ECENet: a backbone, the decode head, and the sizes that have a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from trainer.model.backbone import ConvBackbone, SwinBackbone
from trainer.model.decode_head import DecodeHead, HeadOutput


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Definition of a network. Swin's fields count only where ``backbone`` is ``swin``.

    Attributes:
        backbone: ``swin``, or the name of a convolutional backbone of timm.
        num_classes: K.
        channels: Width C of the head.
        num_heads: Heads of the head's attention.
        mean: Subtracted from RGB in 0..255.
        std: Divides after that.
        dropout: Dropout before the classifier, 0..1.
        drop_path: Largest rate of stochastic depth in the backbone, 0..1.
        embed_dim: Swin's channels of the first stage.
        depths: Swin's blocks per stage.
        swin_heads: Swin's attention heads per stage.
        window_size: Swin's window in tokens.
        mlp_ratio: Swin's hidden channels per channel.
    """

    backbone: str
    num_classes: int
    channels: int = 256
    num_heads: int = 4
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    dropout: float = 0.1
    drop_path: float = 0.0
    embed_dim: int = 0
    depths: tuple[int, ...] = ()
    swin_heads: tuple[int, ...] = ()
    window_size: int = 0
    mlp_ratio: float = 4.0


_LITE = ModelConfig(
    backbone="tf_efficientnet_lite0",
    num_classes=0,
    channels=64,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)
_SWIN = ModelConfig(backbone="swin", num_classes=0, depths=(2, 2, 18, 2), window_size=12, drop_path=0.3)

NAMED_SIZES: dict[str, ModelConfig] = {
    "ecenet-lite0": _LITE,
    "ecenet-lite2": replace(_LITE, backbone="tf_efficientnet_lite2"),
    "ecenet-swin-tiny": replace(_SWIN, embed_dim=96, depths=(2, 2, 6, 2), swin_heads=(3, 6, 12, 24), window_size=7),
    "ecenet-swin-base": replace(_SWIN, embed_dim=128, swin_heads=(4, 8, 16, 32)),
    "ecenet-swin-large": replace(_SWIN, embed_dim=192, swin_heads=(6, 12, 24, 48)),
}


def named_config(name: str, num_classes: int) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        ValueError: ``name`` is none of ``NAMED_SIZES``.
    """
    if name not in NAMED_SIZES:
        raise ValueError(f"model {name!r} is unknown; the sizes are {', '.join(NAMED_SIZES)}")
    return replace(NAMED_SIZES[name], num_classes=num_classes)


class ECENet(nn.Module):
    """Semantic segmentation with explicit class embeddings.

    Takes normalised RGB images (B, 3, H, W) float32 of any size, gives logits (B, K, ceil(H/4), ceil(W/4)) in eval mode
    and a ``HeadOutput`` in training.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config)
        self.decode_head = build_head(config, self.backbone.channels)

    def forward(self, images: Tensor) -> Tensor | HeadOutput:
        return cast(Tensor | HeadOutput, self.decode_head(self.backbone(images)))


def build_backbone(config: ModelConfig) -> ConvBackbone | SwinBackbone:
    """The backbone of a configuration, with random weights."""
    if config.backbone != "swin":
        return ConvBackbone(config.backbone, drop_path=config.drop_path)
    return SwinBackbone(
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.swin_heads,
        window_size=config.window_size,
        mlp_ratio=config.mlp_ratio,
        drop_path=config.drop_path,
    )


def build_head(config: ModelConfig, in_channels: tuple[int, ...]) -> DecodeHead:
    """The decode head of a configuration, with random weights."""
    return DecodeHead(
        in_channels=in_channels,
        num_classes=config.num_classes,
        channels=config.channels,
        num_heads=config.num_heads,
        dropout=config.dropout,
    )


def build_model(name: str, num_classes: int) -> ECENet:
    """A named size with random weights, in training mode."""
    return ECENet(named_config(name, num_classes))
