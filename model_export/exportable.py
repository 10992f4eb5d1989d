"""The module that is traced: fixed names, uint8 images in, logits out. It calls the model and copies none of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.model.ecenet import ECENet

INPUT_NAME = "images"
OUTPUT_NAME = "logits"


class Exportable(nn.Module):
    """ECENet with its normalisation: images (B, H, W, 3) uint8 RGB to logits (B, K, ceil(H/4), ceil(W/4)) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: ECENet) -> None:
        super().__init__()
        self.model = model.eval()
        self.register_buffer("mean", torch.tensor(model.config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(model.config.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.float().permute(0, 3, 1, 2)  # cast first: TensorRT has no transpose of uint8
        logits: Tensor = self.model((pixels - self.mean) / self.std)
        return logits
