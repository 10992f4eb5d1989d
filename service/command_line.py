"""The settings of a process: command line over environment over file over defaults, each with where it is from."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails

from service.model_directory.sizes import format_size
from service.settings import ENV_PREFIX, Environment, Settings, SettingsError, is_secret, option, variable

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
# Units of the numbers whose names end so; other numbers are counts.
_UNITS = frozenset({"bytes", "pixels", "s", "ms", "port"})
_MASK = "**********"

_HELP_EPILOG = """\
Each option is also an environment variable (--max-batch-size is ECENET_MAX_BATCH_SIZE) and a key of the settings file
(max_batch_size). The command line overrides the environment, which overrides the file. ECENET_API_KEYS has no option,
because every user of a machine can read command lines.

example:
  ecenet-serve --port 8000 &
  curl -F file=@photo.png 'http://127.0.0.1:8000/segment?format=color' -o mask.png
"""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command line of a process.

    Attributes:
        settings: The effective settings.
        sources: The source of each setting that is not a default, by field name.
        print_settings: Whether they are to be printed, and nothing else.
        explain_engine: Whether the choice of the engine is to be printed, and nothing else.
    """

    settings: Settings
    sources: Mapping[str, str]
    print_settings: bool = False
    explain_engine: bool = False


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """The settings alone; see ``read_command_line``."""
    return read_command_line(arguments).settings


def read_command_line(arguments: Sequence[str] | None = None) -> CommandLine:
    """Settings from the command line, the environment and the settings file.

    Args:
        arguments: Command line without the program's name; that of the process if not given.

    Raises:
        SettingsError: Values out of range, or a settings file that cannot be used.
        SystemExit: ``--help`` or an unknown option, both reported on the terminal.
    """
    given = vars(_parser().parse_args(arguments))
    print_settings, explain_engine = (given.pop(name, False) for name in ("print_settings", "explain_engine"))
    path = given.pop("config", os.environ.get(CONFIG_VARIABLE))
    in_file = read_settings_file(Path(path), Settings.model_fields) if path else {}
    in_environment = Environment(Settings)()
    sources = (
        dict.fromkeys(in_file, f"file {path}")
        | {name: f"environment {variable(name)}" for name in in_environment}
        | {name: f"command line {option(name)}" for name in given}
    )
    try:
        settings = Settings(**{**in_file, **in_environment, **given})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(entry, sources) for entry in error.errors())) from None
    return CommandLine(settings, sources, print_settings, explain_engine)


def describe(command_line: CommandLine) -> str:
    """The effective settings as lines of a settings file, each with its source; secrets are masked."""
    lines = [_assignment(name, getattr(command_line.settings, name)) for name in Settings.model_fields]
    width = max(len(line) for line in lines)
    sources = [command_line.sources.get(name, "default") for name in Settings.model_fields]
    return "\n".join(f"{line:<{width}}  # {source}" for line, source in zip(lines, sources, strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-serve",
        description="Serve semantic segmentation over HTTP: an image in, a label map out.",
        epilog=_HELP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help=f"Settings file, TOML; {CONFIG_VARIABLE} if not given.")
    parser.add_argument(
        "--print-settings", action="store_true", help="Print the effective settings with their sources, and exit."
    )
    parser.add_argument(
        "--explain-engine",
        action="store_true",
        help="Print the available runtimes and precisions with their measured times and the one that serves, and exit.",
    )
    for name, field in Settings.model_fields.items():
        if is_secret(name):
            continue
        default = field.get_default(call_default_factory=True)
        text = str(field.description) + (f" Default: {default}." if default is not None else "")
        # A switch alone stands for true, and takes a value as the environment does.
        values: dict[str, Any] = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
        metavar = _metavar(name, field.annotation)
        parser.add_argument(option(name), metavar=metavar, help=text.replace("%", "%%"), **values)
    return parser


def _metavar(name: str, annotation: Any) -> str:
    if annotation is bool:
        return "{true,false}"
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    unit = name.removesuffix("_in_flight").rpartition("_")[2]
    is_number = not {int, float}.isdisjoint((annotation, *get_args(annotation)))
    is_count = is_number and (unit not in _UNITS or name.endswith("_per_s"))
    return "N" if is_count else unit.upper()


def _explain(entry: ErrorDetails, sources: Mapping[str, str]) -> str:
    """One validation error as a sentence: option, variable, value and rule; for several settings only the rule."""
    reason = entry["msg"].removeprefix("Value error, ")
    if not entry["loc"]:
        return reason
    name = str(entry["loc"][0])
    source = sources.get(name, "")
    place = f" in the {source}" if source.startswith("file ") else ""
    value = _MASK if is_secret(name) else repr(entry["input"])
    return f"{option(name)} ({variable(name)}) is {value}{place}: {reason[:1].lower()}{reason[1:]}"


def _assignment(name: str, value: Any) -> str:
    """A line of TOML; a comment where there is no value, or none to show."""
    if value is None:
        return f"# {name} is not set"
    if isinstance(value, SecretStr):
        return f"# {name} = {_MASK}"
    return f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, tuple):
        height, width = value[0], value[-1]
        if isinstance(height, int) and isinstance(width, int):
            return json.dumps(format_size((height, width)))
        return json.dumps([str(entry) for entry in value], ensure_ascii=False)
    return json.dumps(str(value), ensure_ascii=False)


def read_settings_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The values of a settings file by field name, as TOML has them.

    Args:
        path: The file; paths inside it are relative to the working directory, as everywhere else.
        names: Keys that it may have.

    Raises:
        SettingsError: No such file, not TOML, or keys that are not settings; the text names the nearest that is one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    unknown = [_unknown_key(key, names) for key in values if key not in names]
    if unknown:
        raise SettingsError(f"the settings file {path} has {', and '.join(unknown)}")
    return values


def _unknown_key(key: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(key.lower().replace("-", "_"), names, n=1, cutoff=0)
    return f"the unknown key {key!r}; the nearest setting is {nearest[0]!r}"
