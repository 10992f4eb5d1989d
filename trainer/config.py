"""The configuration of a training run, read from a TOML file, then changed on the command line.

``configs/default.toml`` is complete; each experiment extends it by a short difference.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from trainer.config_sections import (
    RELEASED,
    SCALE_FREE,
    DataSection,
    LossWeights,
    ModelSection,
    RuntimeSection,
    ScheduleSection,
    Section,
)
from trainer.datasets.source import Source

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
    "shipped_names",
]

CONFIG_DIR = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names the key and the expectation."""


class TrainConfig(Section):
    """One training run."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    schedule: ScheduleSection = ScheduleSection()
    loss: LossWeights = LossWeights()
    runtime: RuntimeSection = RuntimeSection()

    def as_dict(self) -> dict[str, Any]:
        """Nested dictionaries of what JSON has."""
        return self.model_dump(mode="json")

    def as_toml(self) -> str:
        """The configuration as a file that ``load_config`` reads."""
        return "\n".join(_table(name, keys) for name, keys in self.as_dict().items())


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


def shipped_names() -> str:
    """The names of the configurations that come with the package, with commas between."""
    return ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.toml")))


def parse_config(raw: Mapping[str, Any]) -> TrainConfig:
    """Build a configuration from nested tables.

    Raises:
        ConfigError: An unknown key, with the nearest valid one, or a value of the wrong type or out of range.
    """
    try:
        return TrainConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(mistake) for mistake in error.errors())) from None


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
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}; there are also: {shipped_names()}") from error
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


def _sentence(mistake: ErrorDetails) -> str:
    """A mistake with its key, its value and the expectation."""
    name = _dotted(mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {name}; did you mean {_nearest(mistake['loc'])}?"
    if mistake["type"] == "missing":
        return f"{name} is missing"
    if mistake["type"] == "model_type":
        return f"[{name}] is {mistake['input']!r}, expected a table"
    if mistake["type"] == "tuple_type" and isinstance(mistake["input"], dict):
        return f"[{name}] is one table, expected a list of tables, each below [[{name}]]"
    expected = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{name} is {mistake['input']!r}, {expected}"


def _dotted(place: Iterable[str | int]) -> str:
    """A place as ``data.sources[0].root``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _nearest(place: Sequence[str | int]) -> str:
    """The valid name that comes next: the same key of another section, else the likest of the same table."""
    *table, key = map(str, place)
    sections: dict[str, list[str]] = {name: list(keys) for name, keys in TrainConfig().as_dict().items()}
    if not table:
        return difflib.get_close_matches(key, sections, 1, 0)[0]
    if found := [section for section, keys in sections.items() if key in keys]:
        return f"{found[0]}.{key}"
    valid = sections[table[0]] if len(table) == 1 else list(Source.model_fields)
    return _dotted([*place[:-1], difflib.get_close_matches(key, valid, 1, 0)[0]])


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _table(name: str, keys: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_toml_value(value)}" for key, value in keys.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(", ", " = "))  # else TOML writes values as JSON does


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
