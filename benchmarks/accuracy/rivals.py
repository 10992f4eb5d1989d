"""Rival heads in the place of ECENet's decode head, on the same backbone's four stage features.

Each keeps its usual form. Its width is the largest power of two at which the head has no more parameters than ECENet's
at width 64 on EfficientNet-Lite0 (0.69 M), and a tenth of the channels is dropped before the classifier, as in ECENet.
FPN, DeepLabV3+, UPerNet and SegFormer's head are segmentation-models-pytorch's decoders, with that library's first
weights. Hamburger is in ``hamburger.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.hamburger import LightHamburger
from trainer.model.backbone import ConvBackbone
from trainer.model.decode_head import HeadOutput
from trainer.model.layers import conv_bn
from trainer.model.timm_loader import import_timm

DROPOUT = 0.1
FCN_WIDTH = 128
FPN_PYRAMID_WIDTH, FPN_WIDTH = 128, 64
DEEPLAB_WIDTH = 128
# Half of the paper's 6, 12, 18, as the images are at half resolution: at stride 16 a view has 12 x 16 cells.
DEEPLAB_RATES = (3, 6, 9)
SEGFORMER_WIDTH = 256  # as in SegFormer-B0 and -B1
UPERNET_WIDTH = 64
HAMBURGER_WIDTH = 256  # as in SegNeXt-T and -S


class RivalHead(nn.Module):
    """Base of the rivals: takes stage features of any size, and gives what ECENet's decode head gives.

    Args:
        decoder: Takes the list of padded stage features, gives a feature (B, width, h, w).
        width: Channels of that feature.
        num_classes: K.
        ratios: Size of each stage in cells of the last.
        factor: Enlargement of the logits to stride 4.
    """

    def __init__(
        self,
        decoder: nn.Module,
        width: int,
        num_classes: int,
        *,
        ratios: Sequence[int] = (8, 4, 2, 1),
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier: nn.Module = nn.Conv2d(width, num_classes, 1)  # its name gives it ECENet's rate of a classifier
        self.ratios, self.factor = tuple(ratios), factor

    def forward(self, stage_features: Sequence[Tensor]) -> Tensor | HeadOutput:
        """Segment four stage features (B, C_i, H_i, W_i).

        Returns:
            Logits (B, K, H_0, W_0) in eval mode; in training a ``HeadOutput`` that has them and no auxiliary terms.
        """
        height, width = stage_features[0].shape[2:]
        logits = self.logits(self._pad(stage_features))[:, :, :height, :width]
        return HeadOutput(logits, logits, (), logits.new_empty(0)) if self.training else logits

    def logits(self, features: list[Tensor]) -> Tensor:
        """Logits (B, K, h, w) at stride 4 of the padded stage features."""
        logits: Tensor = self.classifier(self.dropout(self.decoder(features)))
        return logits if self.factor == 1 else _enlarged(logits, self.factor)

    def _pad(self, stage_features: Sequence[Tensor]) -> list[Tensor]:
        """Zeros at the end, so that each stage is a whole multiple of the last: smp's decoders double sizes."""
        rows, columns = stage_features[-1].shape[2:]
        return [
            F.pad(x, (0, columns * ratio - x.shape[3], 0, rows * ratio - x.shape[2]))
            for x, ratio in zip(stage_features, self.ratios, strict=True)
        ]


def fcn_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """FCN-8s (Long et al., CVPR 2015): two convolutions on the coarsest stage, scores of three stages summed."""
    return _FCN8(in_channels, num_classes)


def fpn_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """Panoptic FPN's semantic branch (Kirillov et al., CVPR 2019): pyramid of 128 channels, branches of 64."""
    decoder = _smp(
        "fpn",
        "FPNDecoder",
        list(in_channels),
        pyramid_channels=FPN_PYRAMID_WIDTH,
        segmentation_channels=FPN_WIDTH,
        dropout=0.0,
    )
    return RivalHead(decoder, FPN_WIDTH, num_classes)


def deeplab_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """DeepLabV3+ (Chen et al., ECCV 2018), separable, for a backbone of output stride 16: see ``dilate``."""
    decoder = _smp(
        "deeplabv3",
        "DeepLabV3PlusDecoder",
        encoder_channels=(0, 0, *in_channels),
        encoder_depth=5,
        out_channels=DEEPLAB_WIDTH,
        atrous_rates=DEEPLAB_RATES,
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=0.0,
    )
    return RivalHead(_FromStrideOne(decoder), DEEPLAB_WIDTH, num_classes, ratios=(4, 2, 1, 1))


def segformer_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """SegFormer's all-MLP head (Xie et al., NeurIPS 2021), equation 4: width 256, as in its smallest models."""
    decoder = _smp("segformer", "SegformerDecoder", [0, *in_channels], segmentation_channels=SEGFORMER_WIDTH)
    return RivalHead(_WithImageSize(decoder), SEGFORMER_WIDTH, num_classes)


def upernet_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """UPerNet (Xiao et al., ECCV 2018): a pyramid of pooled grids on the coarsest stage, then an FPN, of width 64."""
    decoder = _smp("upernet", "UPerNetDecoder", (0, 0, *in_channels), decoder_channels=UPERNET_WIDTH)
    return RivalHead(_FromStrideOne(decoder), UPERNET_WIDTH, num_classes)


def hamburger_head(in_channels: Sequence[int], num_classes: int) -> RivalHead:
    """SegNeXt's head (Guo et al., NeurIPS 2022) on the last three stages, at stride 8: width 256, as in -T and -S."""
    return RivalHead(LightHamburger(in_channels[1:], HAMBURGER_WIDTH), HAMBURGER_WIDTH, num_classes, factor=2)


def dilate(backbone: ConvBackbone, name: str) -> ConvBackbone:
    """Let a backbone's last stage run at stride 16 with dilation 2 in place of stride 32; the weights stay.

    DeepLabV3+ is defined at output stride 16 (or 8): at 32 its largest atrous rates would meet nothing but padding. It
    costs no parameters, but four times the last stage's operations, which the table counts.
    """
    dilated = import_timm().create_model(
        name, features_only=True, out_indices=(1, 2, 3, 4), pretrained=False, output_stride=16
    )
    dilated.load_state_dict(backbone.features.state_dict())
    backbone.features = dilated
    return backbone


class _FCN8(RivalHead):
    """Classifies three stages, not one: the convolved coarsest, and both before it unchanged."""

    def __init__(self, in_channels: Sequence[int], num_classes: int) -> None:
        convolutions = nn.Sequential(
            conv_bn(in_channels[-1], FCN_WIDTH, 3), nn.ReLU(), conv_bn(FCN_WIDTH, FCN_WIDTH, 3), nn.ReLU()
        )
        super().__init__(convolutions, FCN_WIDTH, num_classes)
        skips = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for channels in in_channels[-2:0:-1])
        for parameter in skips.parameters():
            nn.init.zeros_(parameter)  # as in the paper: the net starts with the coarse scores alone
        self.classifier = nn.ModuleList([self.classifier, *skips])

    def logits(self, features: list[Tensor]) -> Tensor:
        coarse, *skips = self.classifier.children()
        score: Tensor = coarse(self.dropout(self.decoder(features[-1])))
        for skip, feature in zip(skips, features[-2:0:-1], strict=True):
            score = _enlarged(score, 2) + skip(feature)
        return _enlarged(score, 2)


class _FromStrideOne(nn.Module):
    """A decoder of smp that numbers its features from stride 1 and leaves the first two alone."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        fused: Tensor = self.decoder([features[0], features[0], *features])
        return fused


class _WithImageSize(nn.Module):
    """A decoder of smp that takes the image before the features, for its size alone."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        height, width = features[0].shape[2:]
        fused: Tensor = self.decoder([features[0].new_empty(0, 3, 4 * height, 4 * width), *features])
        return fused


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _smp(kind: str, name: str, *args: Any, **options: Any) -> nn.Module:
    """A decoder of segmentation-models-pytorch with the first weights that this library gives it."""
    import_timm()  # before smp: both import torchvision, and this knows how to beside a CPU build of PyTorch
    package = "segmentation_models_pytorch"
    decoder: nn.Module = getattr(importlib.import_module(f"{package}.decoders.{kind}.decoder"), name)(*args, **options)
    importlib.import_module(f"{package}.base.initialization").initialize_decoder(decoder)
    return decoder
