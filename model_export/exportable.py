"""The traced module: fixed names, uint8 images in, logits or labels out. It calls the model and copies no code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from service.model_directory.manifest import LOGITS_STRIDE
from trainer.model.ecenet import ECENet

INPUT_NAME = "images"


class Exportable(nn.Module):
    """ECENet with its normalisation: images (B, H, W, 3) uint8 RGB to logits (B, K, ceil(H/4), ceil(W/4)) float32.

    Args:
        model: The network; set to eval mode.
        labels_stride: If given, the output is labels (B, h, w) uint8: 4 for those of the logits' cells, 1 for those of
            the image's pixels, between which the logits are resized bilinearly.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ECENet, labels_stride: int | None = None) -> None:
        super().__init__()
        self.model = model.eval()
        self.labels_stride = labels_stride
        self.register_buffer("mean", torch.tensor(model.config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.config.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float().permute(0, 3, 1, 2)  # cast first: TensorRT has no transpose of uint8
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        if self.labels_stride is None:
            return logits
        if self.labels_stride != LOGITS_STRIDE:
            logits = interpolate(logits, images.shape[1:3], mode="bilinear", align_corners=False)
        return logits.argmax(1).to(torch.uint8)
