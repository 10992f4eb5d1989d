"""The configuration of a training run: dataclasses, read from a TOML file, then changed on the command line.

``configs/default.toml`` is complete; each experiment extends it by a short difference. Standard library only.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from trainer.config_sections import (
    CHOICES,
    RANGES,
    RELEASED,
    SCALE_FREE,
    DataSection,
    LossWeights,
    ModelSection,
    RuntimeSection,
    ScheduleSection,
)

__all__ = [
    "CONFIG_DIR",
    "RELEASED",
    "SCALE_FREE",
    "ConfigError",
    "DataSection",
    "LossWeights",
    "ModelSection",
    "RuntimeSection",
    "ScheduleSection",
    "TrainConfig",
    "changed_keys",
    "load_config",
    "parse_config",
]

CONFIG_DIR = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the key and what was expected."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One training run."""

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    loss: LossWeights = field(default_factory=LossWeights)
    runtime: RuntimeSection = field(default_factory=RuntimeSection)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def as_toml(self) -> str:
        """The configuration as a file that ``load_config`` reads."""
        return "\n".join(_table(name, keys) for name, keys in self.as_dict().items())


def _check_ranges(config: TrainConfig) -> None:
    """Refuse values outside their range or choice.

    Raises:
        ConfigError: Names the key, its value and the limits.
    """
    values = {f"{section}.{key}": value for section, keys in config.as_dict().items() for key, value in keys.items()}
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise ConfigError(f"{name} is {values[name]!r}, expected one of {', '.join(choices)}")
    for name, (low, high) in RANGES.items():
        value = values[name]
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                raise ConfigError(f"{name} is {number:g}, expected {low:g} to {high:g}")
    for name in ("scale", "gamma"):
        low, high = getattr(config.data, name)
        if low > high:
            raise ConfigError(f"data.{name} is {[low, high]}, expected the smaller one first")


def load_config(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a TOML file and apply ``section.key=value`` overrides, whose values are TOML too (or plain strings).

    A file may build on another: ``extends = "NAME"`` at its top, a file beside it or one that comes with the package.

    Args:
        path: A TOML file, or the name of one in ``trainer/configs``.
        overrides: E.g. ``schedule.epochs=10``.

    Raises:
        ConfigError: The file is missing or malformed, or a key is unknown or has a wrong type or value.
    """
    raw = _read(path, ())
    for override in overrides:
        name, separator, value = override.partition("=")
        section, _, key = name.partition(".")
        if not (separator and key):
            raise ConfigError(f"override {override!r} is not of the form section.key=value")
        table = raw.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = _parse_value(value)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from nested tables.

    Raises:
        ConfigError: An unknown key, with the nearest valid one, or a value of the wrong type or out of range.
    """
    sections = get_type_hints(TrainConfig)
    _refuse_unknown_sections(raw, sections)
    config = TrainConfig(**{name: _parse_section(name, sections[name], raw.get(name, {})) for name in sections})
    _check_ranges(config)
    return config


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Differences of two configurations as dictionaries, ``section.key: old -> new``, without ``runtime``."""
    return [
        f"{section}.{key}: {_toml_value(old)} -> {_toml_value(new)}"
        for section, keys in after.items()
        if section != "runtime"
        for key, new in keys.items()
        if _plain(old := before.get(section, {}).get(key)) != _plain(new)
    ]


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The tables of a file over those of the file that it extends."""
    if not path.is_file() and (CONFIG_DIR / f"{path}.toml").is_file():
        path = CONFIG_DIR / f"{path}.toml"
    if path in seen:
        raise ConfigError(f"{path} extends itself: {' -> '.join(file.name for file in (*seen, path))}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.toml")))
        raise ConfigError(f"configuration {path} cannot be read: {error}; there are also: {known}") from error
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ConfigError(f"{path}: extends is {base!r}, expected the name of a file")
    beside = path.parent / base
    return _merge(_read(beside if beside.is_file() else Path(base), (*seen, path)), raw)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for section, keys in changes.items():
        if isinstance(keys, dict) and isinstance(base.get(section), dict):
            base[section] |= keys
        else:
            base[section] = keys
    return base


def _parse_section(section: str, kind: type[Any], raw: Any) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"[{section}] is {raw!r}, expected a table")
    hints = get_type_hints(kind)
    for key in raw:
        if key not in hints:
            raise ConfigError(f"unknown key {section}.{key}; did you mean {_nearest(section, key)}?")
    return kind(**{key: _coerce(f"{section}.{key}", value, hints[key]) for key, value in raw.items()})


def _refuse_unknown_sections(raw: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in raw:
        if name not in known:
            (near,) = difflib.get_close_matches(name, known, 1, 0)
            raise ConfigError(f"unknown key {name}; did you mean {near}? The sections are {', '.join(known)}")


def _nearest(section: str, key: str) -> str:
    """The valid name that comes next: the same key of another section, else the likest of this one."""
    sections = get_type_hints(TrainConfig)
    for name, kind in sections.items():
        if key in get_type_hints(kind):
            return f"{name}.{key}"
    return f"{section}.{difflib.get_close_matches(key, list(get_type_hints(sections[section])), 1, 0)[0]}"


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """A value as the type that its key is annotated with."""
    members = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(members):
            raise ConfigError(f"{name} is {value!r}, expected {len(members)} values, each {_words(members[0])}")
        return tuple(_coerce(name, item, member) for item, member in zip(value, members, strict=True))
    if type(None) in members:
        return None if value is None else _coerce(name, value, members[0])
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{name} is {value!r}, expected {_words(kind)}")
    return value


def _words(kind: type) -> str:
    return {int: "an integer", float: "a number", bool: "true or false", str: "a text"}[kind]


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _table(name: str, keys: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_toml_value(value)}" for key, value in keys.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # TOML writes texts, numbers, truth and lists as JSON does


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
