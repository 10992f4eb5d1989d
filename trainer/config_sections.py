"""The sections of a configuration: every key with its meaning, its default and its limits."""

from __future__ import annotations

from dataclasses import dataclass

SCALE_FREE, RELEASED = "scale-free", "released"


@dataclass(frozen=True, slots=True)
class ModelSection:
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
    dropout: float | None = None
    drop_path: float | None = None
    bilinear_start: bool = True
    principal_start: bool = True


@dataclass(frozen=True, slots=True)
class DataSection:
    """Data, augmentation, and how the val split is looked at.

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
        tint: Largest relative change of red, green and blue, each for itself, 0..1: other light, other cameras.
        class_views: Chance that a view lies around a pixel of a class drawn evenly from those of the image, 0..1: rare
            classes are seen more often.
        class_mix: Chance that half of the classes of another image's view are laid over a view, 0..1.
        evaluation: ``whole`` images, or windows that ``slide``.
        slide_stride: (vertical, horizontal) pixels between windows.
        cache: Whether decoded images are kept in memory, those to learn from no larger than a view can show.
        repeat: How often an image is seen in an epoch, each time in another view, for few images; once if absent.
    """

    dataset: str = "camvid"
    input_size: tuple[int, int] = (352, 480)
    keep_ratio: bool = False
    crop_size: tuple[int, int] = (352, 480)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: float = 0.4
    gamma: tuple[float, float] = (1.0, 1.0)
    tint: float = 0.0
    class_views: float = 0.0
    class_mix: float = 0.0
    evaluation: str = "whole"
    slide_stride: tuple[int, int] = (320, 320)
    cache: bool = False
    repeat: int | None = None


@dataclass(frozen=True, slots=True)
class ScheduleSection:
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

    epochs: int = 200
    batch_size: int = 8
    accumulate: int = 1
    lr: float = 3e-4
    head_lr_multiple: float = 8.0
    classifier_lr_multiple: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    power: float = 0.9
    ema_decay: float = 0.998
    clip_norm: float = 5.0
    precision: str = "auto"
    sync_batchnorm: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights and forms of the loss terms; a term of weight 0 is not computed.

    Attributes:
        cross_entropy: Weight of the cross entropy of the logits.
        overlap: Weight of the dice loss of the logits, which counts all classes of an image alike; not in the release.
        auxiliary: Weight of the auxiliary mask loss as a whole.
        focal: Weight of its focal term.
        dice: Weight of its dice term.
        diversity: Weight of the diversity loss.
        diversity_form: ``scale-free`` for the peaks of channels at one amplitude, ``released`` for those of the
            channels as they are, which a larger amplitude alone lowers without end.
        presence: Weight of the cross entropy of each present class's embedding against its class; not in the release.
        class_balance: Whether the cross entropy weighs classes by 1 / ln(1.1 + share of pixels), as ENet does.
    """

    cross_entropy: float = 1.0
    overlap: float = 0.0
    auxiliary: float = 1.0
    focal: float = 5.0
    dice: float = 2.0
    diversity: float = 0.2
    diversity_form: str = SCALE_FREE
    presence: float = 0.3
    class_balance: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeSection:
    """Settings of the machine's part of a run. They may change between a run and its continuation.

    Attributes:
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a GPU.
        workers: Processes per rank that prepare batches; 0 for none.
        channels_last: Whether features lie with their channels together, which convolutions like best.
        gradient_checkpointing: Whether the backbone's activations are computed again for the gradient: slower, smaller.
        compile: Whether the network goes through ``torch.compile``.
        evaluate_every: Epochs between evaluations of the val split.
        patience: Evaluations in a row without a better mIoU after which the run ends; 0 for no limit.
        timed_steps: Steps that are timed, and taken back, to tell how long the run will take; 0 for none.
        checkpoint_every: Steps between checkpoints inside an epoch; 0 for one at the end of each epoch only.
        keep_checkpoints: How many of the last checkpoints stay, beside the best.
        tensorboard: Whether events for TensorBoard are written.
        report: Whether the run ends with ``report.html``.
    """

    device: str = "auto"
    workers: int = 1
    channels_last: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    evaluate_every: int = 5
    patience: int = 10
    timed_steps: int = 3
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True
    report: bool = True


CHOICES = {
    "loss.diversity_form": (SCALE_FREE, RELEASED),
    "data.evaluation": ("whole", "slide"),
    "schedule.precision": ("auto", "fp32", "bf16", "fp16"),
    "runtime.device": ("auto", "cpu", "cuda"),
}
RANGES: dict[str, tuple[float, float]] = {
    "model.dropout": (0, 0.999),
    "model.drop_path": (0, 0.999),
    "data.input_size": (32, 65536),
    "data.crop_size": (32, 65536),
    "data.slide_stride": (1, 65536),
    "data.scale": (0.01, 100),
    "data.flip": (0, 1),
    "data.jitter": (0, 1),
    "data.gamma": (0.01, 100),
    "data.tint": (0, 1),
    "data.class_views": (0, 1),
    "data.class_mix": (0, 1),
    "data.repeat": (1, 1e6),
    "schedule.epochs": (1, 1e6),
    "schedule.batch_size": (1, 1e6),
    "schedule.accumulate": (1, 1e6),
    "schedule.lr": (0, 10),
    "schedule.head_lr_multiple": (0, 1e4),
    "schedule.classifier_lr_multiple": (0, 1e4),
    "schedule.layer_decay": (0.01, 1),
    "schedule.weight_decay": (0, 10),
    "schedule.warmup_epochs": (0, 1e6),
    "schedule.power": (0, 10),
    "schedule.ema_decay": (0, 0.999999),
    "schedule.clip_norm": (0, 1e9),
    "schedule.seed": (0, 2**63 - 1),
    "loss.cross_entropy": (0, 1e6),
    "loss.overlap": (0, 1e6),
    "loss.auxiliary": (0, 1e6),
    "loss.focal": (0, 1e6),
    "loss.dice": (0, 1e6),
    "loss.diversity": (0, 1e6),
    "loss.presence": (0, 1e6),
    "runtime.workers": (0, 256),
    "runtime.evaluate_every": (1, 1e6),
    "runtime.patience": (0, 1e6),
    "runtime.timed_steps": (0, 1e3),
    "runtime.checkpoint_every": (0, 1e9),
    "runtime.keep_checkpoints": (1, 1e6),
}
