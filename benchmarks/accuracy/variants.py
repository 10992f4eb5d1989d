"""Networks of the comparison: ECENet, rival heads on its backbone, and ECENet with one part taken out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from benchmarks.accuracy.ablations import with_learned_classes, without_reconstruction
from benchmarks.accuracy.recipe import Recipe
from benchmarks.accuracy.rivals import (
    DEEPLAB_WIDTH,
    FCN_WIDTH,
    FPN_WIDTH,
    HAMBURGER_WIDTH,
    SEGFORMER_WIDTH,
    UPERNET_WIDTH,
    RivalHead,
    deeplab_head,
    dilate,
    fcn_head,
    fpn_head,
    hamburger_head,
    segformer_head,
    upernet_head,
)
from benchmarks.accuracy.trials import (
    with_deep_masks,
    with_finest_mask,
    with_key_scale,
    with_norm_momentum,
    without_dropout,
)
from trainer.config import RELEASED, LossWeights
from trainer.model.backbone import ConvBackbone
from trainer.model.ecenet import ECENet, build_model, named_config
from trainer.schedule import classifier_multiple

MODEL = "ecenet-lite0"
WIDTH = named_config(MODEL, 1).channels
FULL = LossWeights(class_balance=True)
CROSS_ENTROPY = LossWeights(class_balance=True, auxiliary=0.0, diversity=0.0, presence=0.0)


@dataclass(frozen=True, slots=True)
class Variant:
    """One network, its start and its loss.

    Attributes:
        title: Its row in the tables.
        change: Makes it of an ECENet, in place.
        loss: Weights of the loss terms.
        ablation: Whether it belongs to the ablation and not to the comparison of heads.
        trial: Whether it is a change of the training that the trainer does not have.
        bilinear_start: Whether the ghost steps start as an enlargement.
        principal_start: Whether FR starts at the principal directions of its stages.
        width: Channels that the classifier gets.
        one_rate: Whether the classifier has the rate of the rest of the head unless a recipe gives it its own.
        warmup: Steps of warm-up per step of the recipe's.
        fading: Terms of the loss whose weights fall to 0, epoch by epoch.
    """

    title: str
    change: Callable[[ECENet], ECENet]
    loss: LossWeights = FULL
    ablation: bool = False
    trial: bool = False
    bilinear_start: bool = True
    principal_start: bool = True
    width: int = WIDTH
    one_rate: bool = False
    warmup: float = 1.0
    fading: tuple[str, ...] = ()

    def network(self, name: str) -> str:
        """The variant that has the same network in inference: ECENet, or the one of this ``name`` itself."""
        return "ecenet" if self.trial or self.change is _same else name

    @property
    def is_rival(self) -> bool:
        """True for a head that is none of ECENet's."""
        return self.loss is CROSS_ENTROPY

    def loss_at(self, progress: float) -> LossWeights:
        """The weights after a share of the training, 0..1."""
        return self.loss.model_copy(update={name: (1 - progress) * getattr(self.loss, name) for name in self.fading})

    @property
    def fast_multiple(self) -> float:
        """The classifier's rate per backbone's rate that the trainer gives to a head of this width."""
        return classifier_multiple(self.width)

    def recipe(self, shared: Recipe) -> Recipe:
        """The recipe that all share, with this one's warm-up, and its rate of the classifier where none is given."""
        shared = replace(shared, warmup_steps=round(self.warmup * shared.warmup_steps))
        if shared.classifier_lr_multiple is not None:
            return shared
        own = shared.head_lr_multiple if self.one_rate else self.fast_multiple
        return replace(shared, classifier_lr_multiple=own)


def _with_head(head: Callable[..., RivalHead]) -> Callable[[ECENet], ECENet]:
    def change(model: ECENet) -> ECENet:
        model.decode_head = head(model.backbone.channels, model.config.num_classes)  # type: ignore[assignment]
        return model

    return change


def _deeplab(model: ECENet) -> ECENet:
    assert isinstance(model.backbone, ConvBackbone)
    dilate(model.backbone, model.config.backbone)
    return _with_head(deeplab_head)(model)


def _same(model: ECENet) -> ECENet:
    return model


def _rival(title: str, change: Callable[[ECENet], ECENet], width: int) -> Variant:
    """A head that has nothing of ECENet's start and losses."""
    return Variant(
        title, change, CROSS_ENTROPY, width=width, bilinear_start=False, principal_start=False, one_rate=True
    )


def _ablation(title: str, change: Callable[[ECENet], ECENet] = _same, **options: Any) -> Variant:
    return Variant(title, change, ablation=True, **options)


def _trial(title: str, change: Callable[[ECENet], ECENet] = _same, **options: Any) -> Variant:
    return Variant(title, change, trial=True, **options)


VARIANTS: dict[str, Variant] = {
    "ecenet": Variant("ECENet", _same),
    "fcn": _rival("FCN-8s", _with_head(fcn_head), FCN_WIDTH),
    "fpn": _rival("FPN", _with_head(fpn_head), FPN_WIDTH),
    "deeplabv3plus": _rival("DeepLabV3+", _deeplab, DEEPLAB_WIDTH),
    "segformer": _rival("SegFormer's MLP head", _with_head(segformer_head), SEGFORMER_WIDTH),
    "hamburger": _rival("SegNeXt's Hamburger head", _with_head(hamburger_head), HAMBURGER_WIDTH),
    "upernet": _rival("UPerNet", _with_head(upernet_head), UPERNET_WIDTH),
    "no-fr": _ablation(
        "without FR", without_reconstruction, loss=FULL.model_copy(update={"diversity": 0.0}), principal_start=False
    ),
    "no-auxiliary": _ablation("without the auxiliary mask loss", loss=FULL.model_copy(update={"auxiliary": 0.0})),
    "no-diversity": _ablation("without the diversity loss", loss=FULL.model_copy(update={"diversity": 0.0})),
    "released-diversity": _ablation(
        "the diversity loss in its released form", loss=FULL.model_copy(update={"diversity_form": RELEASED})
    ),
    "no-presence": _ablation("without the presence loss", loss=FULL.model_copy(update={"presence": 0.0})),
    "random-ghost": _ablation("ghost steps that start at random", bilinear_start=False),
    "random-fr": _ablation("FR that starts at random", principal_start=False),
    "one-rate": _ablation("the classifier at the rate of the head", one_rate=True),
    "learned-classes": _ablation("class embeddings learned, not explicit", with_learned_classes),
    "key-scale-2": _trial("keys that start twice as large", with_key_scale(2)),
    "key-scale-4": _trial("keys that start four times as large", with_key_scale(4)),
    "key-scale-16": _trial("keys that start 16 times as large", with_key_scale(16)),
    "finest-mask": _trial("the finest mask inside the auxiliary loss", with_finest_mask),
    "deep-masks": _trial("the sum of masks after each stage inside the auxiliary loss", with_deep_masks),
    "fading-masks": _trial("an auxiliary loss that fades", fading=("auxiliary",)),
    "fading-losses": _trial(
        "auxiliary, diversity and presence losses that fade", fading=("auxiliary", "diversity", "presence")
    ),
    "slow-norms": _trial("batch norms of momentum 0.02", with_norm_momentum(0.02)),
    "no-dropout": _trial("no dropout", without_dropout),
    "half-warm-up": _trial("half the steps of warm-up", warmup=0.5),
    "long-warm-up": _trial("1.5 times the steps of warm-up", warmup=1.5),
}
HEADS = tuple(name for name, variant in VARIANTS.items() if not (variant.ablation or variant.trial))
COMPARED = tuple(name for name, variant in VARIANTS.items() if not variant.trial)


def build_variant(name: str, num_classes: int) -> ECENet:
    """A variant with random weights, in training mode; its backbone takes ImageNet's as any other.

    Raises:
        ValueError: ``name`` is none of ``VARIANTS``.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} is unknown; there are {', '.join(VARIANTS)}")
    return VARIANTS[name].change(build_model(MODEL, num_classes))


def parameters(model: nn.Module) -> int:
    """Number of trained parameters; the statistics of batch norms do not count."""
    return sum(parameter.numel() for parameter in model.parameters())
