"""The configuration of a training run: dataclasses, read from a TOML file, then changed on the command line.

Standard library only.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

CONFIG_DIR = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the key and what was expected."""


@dataclass(frozen=True, slots=True)
class ModelSection:
    """The network.

    Attributes:
        name: A named size, e.g. ``ecenet-lite0``.
        pretrained: ``imagenet`` for the backbone's ImageNet weights, ``none`` for random ones, or the path of a
            checkpoint to start from.
    """

    name: str = "ecenet-lite0"
    pretrained: str = "imagenet"


@dataclass(frozen=True, slots=True)
class DataSection:
    """Data and augmentation.

    Attributes:
        dataset: Name of the dataset, ``camvid``.
        input_size: (height, width) in pixels that whole images are resized to for the model.
        crop_size: (height, width) of a training view.
        scale: Range of random scales of a view, relative to ``input_size``.
        jitter: Largest relative change of brightness, contrast and saturation, 0..1.
    """

    dataset: str = "camvid"
    input_size: tuple[int, int] = (360, 480)
    crop_size: tuple[int, int] = (352, 480)
    scale: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.4


@dataclass(frozen=True, slots=True)
class ScheduleSection:
    """Optimisation.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Images per step.
        lr: Base rate of AdamW for the backbone.
        head_lr_multiple: The head's rate per backbone's rate.
        weight_decay: Decay of everything but norms and biases.
        warmup_epochs: Epochs of linear warm-up.
        power: Exponent of the polynomial decay.
        ema_decay: Decay per step of the averaged weights, 0..1.
        clip_norm: Largest norm of the gradient.
        precision: ``bf16`` (autocast) or ``fp32``.
        evaluate_every: Epochs between evaluations of the val split.
        seed: Of weights, order and augmentation.
        workers: Processes that prepare batches; 0 for none.
    """

    epochs: int = 200
    batch_size: int = 8
    lr: float = 3e-4
    head_lr_multiple: float = 4.0
    weight_decay: float = 0.01
    warmup_epochs: float = 1.0
    power: float = 0.9
    ema_decay: float = 0.998
    clip_norm: float = 5.0
    precision: str = "bf16"
    evaluate_every: int = 5
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the loss terms, the released ones by default.

    Attributes:
        cross_entropy: Weight of the cross entropy of the logits.
        auxiliary: Weight of the auxiliary mask loss as a whole.
        focal: Weight of its focal term.
        dice: Weight of its dice term.
        diversity: Weight of the diversity loss.
        class_balance: Whether the cross entropy weighs classes by 1 / ln(1.1 + share of pixels), as ENet does.
    """

    cross_entropy: float = 1.0
    auxiliary: float = 1.0
    focal: float = 5.0
    dice: float = 2.0
    diversity: float = 0.2
    class_balance: bool = False


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run."""

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    loss: LossWeights = field(default_factory=LossWeights)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a TOML file and apply ``section.key=value`` overrides, whose values are TOML too (or plain strings).

    Args:
        path: A TOML file, or the name of one in ``trainer/configs``.
        overrides: E.g. ``schedule.epochs=10``.

    Raises:
        ConfigError: The file is missing or malformed, or a key is unknown or has the wrong type.
    """
    if not path.is_file() and (CONFIG_DIR / f"{path}.toml").is_file():
        path = CONFIG_DIR / f"{path}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.toml")))
        raise ConfigError(f"configuration {path} cannot be read: {error}; there are also: {known}") from error
    for override in overrides:
        name, separator, value = override.partition("=")
        section, _, key = name.partition(".")
        if not (separator and key):
            raise ConfigError(f"override {override!r} is not of the form section.key=value")
        raw.setdefault(section, {})[key] = _parse_value(value)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from nested tables.

    Raises:
        ConfigError: An unknown key, with the nearest valid one, or a value of the wrong type.
    """
    hints = get_type_hints(TrainConfig)
    _refuse_unknown("", raw, hints)
    return TrainConfig(**{name: _parse_section(name, hints[name], raw.get(name, {})) for name in hints})


def _parse_section(section: str, kind: type[Any], raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"[{section}] is {raw!r}, expected a table")
    defaults = kind()
    _refuse_unknown(f"{section}.", raw, [f.name for f in fields(kind)])
    return kind(**{key: _coerce(f"{section}.{key}", value, getattr(defaults, key)) for key, value in raw.items()})


def _refuse_unknown(prefix: str, raw: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)
            raise ConfigError(f"unknown key {prefix}{key}; did you mean {prefix}{near[0] if near else known[0]}?")


def _coerce(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            raise ConfigError(f"{name} is {value!r}, expected {len(default)} values such as {list(default)}")
        return tuple(_coerce(name, item, like) for item, like in zip(value, default, strict=True))
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"{name} is {value!r}, expected a {type(default).__name__} such as {default!r}")
    return value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
