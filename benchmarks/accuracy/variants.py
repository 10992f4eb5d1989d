"""What is compared: ECENet, rival heads on its backbone, and ECENet with one part taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from benchmarks.accuracy.ablations import with_learned_classes, without_reconstruction
from benchmarks.accuracy.rivals import RivalHead, deeplab_head, dilate, fcn_head, fpn_head, segformer_head
from trainer.config import LossWeights
from trainer.model.backbone import ConvBackbone
from trainer.model.ecenet import ECENet, build_model

MODEL = "ecenet-lite0"
FULL = LossWeights(class_balance=True)
CROSS_ENTROPY = LossWeights(class_balance=True, auxiliary=0.0, diversity=0.0)


@dataclass(frozen=True, slots=True)
class Variant:
    """One network and its loss.

    Attributes:
        title: Its row in the tables.
        change: Makes it of an ECENet, in place.
        loss: Weights of the loss terms.
        ablation: Whether it belongs to the ablation and not to the comparison of heads.
    """

    title: str
    change: Callable[[ECENet], ECENet]
    loss: LossWeights = FULL
    ablation: bool = False


def _rival(head: Callable[..., RivalHead]) -> Callable[[ECENet], ECENet]:
    def change(model: ECENet) -> ECENet:
        model.decode_head = head(model.backbone.channels, model.config.num_classes)  # type: ignore[assignment]
        return model

    return change


def _deeplab(model: ECENet) -> ECENet:
    assert isinstance(model.backbone, ConvBackbone)
    dilate(model.backbone, model.config.backbone)
    return _rival(deeplab_head)(model)


def _same(model: ECENet) -> ECENet:
    return model


VARIANTS: dict[str, Variant] = {
    "ecenet": Variant("ECENet", _same),
    "fcn": Variant("FCN-8s", _rival(fcn_head), CROSS_ENTROPY),
    "fpn": Variant("FPN", _rival(fpn_head), CROSS_ENTROPY),
    "deeplabv3plus": Variant("DeepLabV3+", _deeplab, CROSS_ENTROPY),
    "segformer": Variant("SegFormer's MLP head", _rival(segformer_head), CROSS_ENTROPY),
    "no-fr": Variant(
        "without FR", without_reconstruction, LossWeights(class_balance=True, diversity=0.0), ablation=True
    ),
    "no-auxiliary": Variant(
        "without the auxiliary mask loss", _same, LossWeights(class_balance=True, auxiliary=0.0), ablation=True
    ),
    "no-diversity": Variant(
        "without the diversity loss", _same, LossWeights(class_balance=True, diversity=0.0), ablation=True
    ),
    "learned-classes": Variant("class embeddings learned, not explicit", with_learned_classes, ablation=True),
}


def build_variant(name: str, num_classes: int) -> ECENet:
    """A variant with random weights, in training mode; its backbone takes ImageNet's as any other.

    Raises:
        ValueError: ``name`` is none of ``VARIANTS``.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is unknown; there are {', '.join(VARIANTS)}")
    return VARIANTS[name].change(build_model(MODEL, num_classes))


def parameters(model: nn.Module) -> int:
    """How many numbers training sets, batch norms' statistics not counted."""
    return sum(parameter.numel() for parameter in model.parameters())
