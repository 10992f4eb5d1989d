"""A network in PyTorch as a function of images."""

from __future__ import annotations

import numpy as np
import torch

from trainer.model.ecenet import ECENet
from trainer.prediction.pytorch import pytorch_infer


def test_a_row_of_a_batch_equals_the_single_image(tiny_model: ECENet) -> None:
    infer = pytorch_infer(tiny_model.eval())
    images = np.random.default_rng(0).integers(0, 256, (3, 37, 50, 3), np.uint8)
    batched = infer(images)
    assert (batched.shape, batched.dtype) == ((3, 11, 10, 13), np.float32)
    for index, image in enumerate(images):
        assert np.abs(infer(image[None])[0] - batched[index]).max() < 1e-5


def test_logits_are_float32_under_autocast(tiny_model: ECENet) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = pytorch_infer(tiny_model.eval())(images)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = pytorch_infer(tiny_model)(images)
    assert lowered.dtype == np.float32
    assert 0 < np.abs(lowered - expected).max() < 0.1 * np.abs(expected).max() + 0.1
