"""The sections of a configuration: every key with its meaning, its default and its limits."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from trainer.datasets.source import Source

SCALE_FREE: Final = "scale-free"
RELEASED: Final = "released"


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("expected the smaller one first")
    return pair


Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=0.999)]
Multiple = Annotated[float, Field(ge=0, le=1e4)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=1e6)]
Side = Annotated[int, Field(ge=32, le=65536)]
Step = Annotated[int, Field(ge=1, le=65536)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
Range = Annotated[tuple[Factor, Factor], Strict(False), AfterValidator(_ordered)]


class Section(BaseModel):
    """A table of keys: unknown ones and other types are errors, and nothing changes once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """The network.

    Attributes:
        name: A named size, e.g. ``ecenet-lite0``.
        pretrained: ``imagenet`` for the backbone's packaged ImageNet weights, ``bundled`` for the model that comes with
            the package, ``none`` for random ones, or a file: a backbone in timm's, torchvision's or mmsegmentation's
            layout, or a checkpoint of a whole network.
        dropout: Share of the fused channels dropped before the classifier, 0..1; the size's own if absent.
        drop_path: Largest rate of stochastic depth in the backbone, 0..1; the size's own if absent.
        bilinear_start: Whether the upsampling of a new head starts as an enlargement, not at random.
        principal_start: Whether Feature Reconstruction of a new head starts at the principal directions of the
            backbone's features on the first training views, not at random.
    """

    name: str = "ecenet-lite0"
    pretrained: str = "imagenet"
    dropout: Rate | None = None
    drop_path: Rate | None = None
    bilinear_start: bool = True
    principal_start: bool = True


class DataSection(Section):
    """Data, augmentation, and the evaluation of the val split.

    Attributes:
        dataset: Name of the dataset, e.g. ``camvid``.
        input_size: (height, width) in pixels that whole images are resized to for the model, at scale 1.
        keep_ratio: Whether images keep their ratio instead: their short side becomes that of ``input_size``.
        crop_size: (height, width) of a training view, and of a window if ``evaluation`` is ``slide``.
        scale: Range of random scales of a view, relative to scale 1, drawn log-uniformly.
        flip: Chance of a horizontal flip, 0..1.
        jitter: Largest relative change of brightness, contrast and saturation, 0..1.
        gamma: Range of a random exponent of the pixel values, taken from 0 to 1, drawn log-uniformly: above 1 darkens
            towards dusk, below 1 brightens.
        tint: Largest relative change of red, green and blue, each separately, 0..1: other light, other cameras.
        class_views: Chance that a view is around a pixel of a class drawn evenly from those of the image, 0..1: rare
            classes are seen more often.
        class_mix: Chance that half of the classes of another image's view are laid over a view, 0..1.
        evaluation: ``whole`` images, or windows that ``slide``.
        slide_stride: (vertical, horizontal) pixels between windows.
        cache: Whether decoded images are kept in memory, those to learn from no larger than a view can show.
        repeat: How often an image is seen in an epoch, each time in another view, for few images; once if absent.
        sources: Other datasets to learn from, a table ``[[data.sources]]`` each; none if absent.
    """

    dataset: str = "camvid"
    input_size: Annotated[tuple[Side, Side], Strict(False)] = (352, 480)
    keep_ratio: bool = False
    crop_size: Annotated[tuple[Side, Side], Strict(False)] = (352, 480)
    scale: Range = (0.5, 2.0)
    flip: Share = 0.5
    jitter: Share = 0.4
    gamma: Range = (1.0, 1.0)
    tint: Share = 0.0
    class_views: Share = 0.0
    class_mix: Share = 0.0
    evaluation: Literal["whole", "slide"] = "whole"
    slide_stride: Annotated[tuple[Step, Step], Strict(False)] = (320, 320)
    cache: bool = False
    repeat: Count | None = None
    sources: Annotated[tuple[Source, ...], Strict(False)] | None = None


class ScheduleSection(Section):
    """Optimisation.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images per step, over all processes and accumulated parts.
        accumulate: Parts that a process computes the gradient of a step in; each averages its own losses.
        lr: Base rate of AdamW for the backbone.
        head_lr_multiple: The head's rate per backbone's rate.
        classifier_lr_multiple: The rate of the head's last layer per backbone's rate; 3072 / width of the head if
            absent, which is 48 for the compact sizes and 12 for the Swin ones.
        layer_decay: Rate of each transformer block per rate of the next one, 0..1; 1 for convolutional backbones.
        weight_decay: Decay of everything but norms, biases and position tables.
        warmup_epochs: Epochs of linear warm-up.
        power: Exponent of the polynomial decay.
        ema_decay: Decay per step of the averaged weights, 0..1.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        precision: ``fp32``, or autocast to ``bf16`` or ``fp16``; ``auto`` is bf16 where the hardware multiplies it.
        sync_batchnorm: Whether batch statistics are those of all processes.
        seed: Of weights, order, augmentation and dropout.
    """

    epochs: Count = 200
    batch_size: Count = 8
    accumulate: Count = 1
    lr: Annotated[float, Field(ge=0, le=10)] = 3e-4
    head_lr_multiple: Multiple = 8.0
    classifier_lr_multiple: Multiple | None = None
    layer_decay: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    power: Annotated[float, Field(ge=0, le=10)] = 0.9
    ema_decay: Annotated[float, Field(ge=0, le=0.999999)] = 0.998
    clip_norm: Annotated[float, Field(ge=0, le=1e9)] = 5.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    sync_batchnorm: bool = True
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0


class LossWeights(Section):
    """Weights and forms of the loss terms; a term of weight 0 is not computed.

    Attributes:
        cross_entropy: Weight of the cross entropy of the logits.
        overlap: Weight of the dice loss of the logits, which counts all classes of an image alike; not in the release.
        auxiliary: Weight of the auxiliary mask loss as a whole.
        focal: Weight of its focal term.
        dice: Weight of its dice term.
        diversity: Weight of the diversity loss.
        diversity_form: ``scale-free`` for the peaks of channels at one amplitude, ``released`` for those of the
            unscaled channels, which a larger amplitude alone lowers without end.
        presence: Weight of the cross entropy of each present class's embedding against its class; not in the release.
        class_balance: Whether the cross entropy weighs classes by 1 / ln(1.1 + share of pixels), as ENet does.
    """

    cross_entropy: Weight = 1.0
    overlap: Weight = 0.0
    auxiliary: Weight = 1.0
    focal: Weight = 5.0
    dice: Weight = 2.0
    diversity: Weight = 0.2
    diversity_form: Literal["scale-free", "released"] = SCALE_FREE
    presence: Weight = 0.3
    class_balance: bool = False


class RuntimeSection(Section):
    """Settings of the machine's part of a run. They may change between a run and its continuation.

    Attributes:
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a GPU.
        workers: Processes per rank that prepare batches; 0 for none. If absent 1 on a CPU, which computes with all its
            cores, and with a GPU the rank's share of the CPUs but one, 1 to 16.
        channels_last: Whether features are stored with their channels together (NHWC), fastest for convolutions.
        gradient_checkpointing: Whether the backbone's activations are computed again for the gradient: slower, smaller.
            The batch norms of a convolutional backbone then take each batch into their statistics twice.
        compile: Whether the network goes through ``torch.compile``.
        evaluate_every: Epochs between evaluations of the val split.
        patience: Evaluations in a row without a better mIoU after which the run ends; 0 for no limit.
        timed_steps: Steps that are timed, and taken back, to estimate how long the run will take; 0 for none.
        checkpoint_every: Steps between checkpoints inside an epoch; 0 for one at the end of each epoch only.
        keep_checkpoints: How many of the last checkpoints stay, beside the best.
        tensorboard: Whether events for TensorBoard are written.
        report: Whether the run ends with ``report.html``.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    channels_last: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    evaluate_every: Count = 5
    patience: Annotated[int, Field(ge=0, le=1e6)] = 10
    timed_steps: Annotated[int, Field(ge=0, le=1e3)] = 3
    checkpoint_every: Annotated[int, Field(ge=0, le=1e9)] = 0
    keep_checkpoints: Count = 2
    tensorboard: bool = True
    report: bool = True
