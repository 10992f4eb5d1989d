"""One immutable set of settings: command line over environment (``ECENET_...``) over defaults."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model_export.sizes import Size, parse_size
from service.cpus import available_cpus
from service.engines.names import EngineName, PrecisionName

ENV_PREFIX = "ECENET_"
LogLevel = Literal["debug", "info", "warning", "error"]

_HELP_EPILOG = """\
Each option is also an environment variable: --max-batch-size is ECENET_MAX_BATCH_SIZE. The command line wins.

example:
  ecenet-serve --port 8000 &
  curl -F file=@photo.png 'http://127.0.0.1:8000/segment?format=color' -o mask.png
"""


class SettingsError(ValueError):
    """Settings that cannot be used; the text names option, value and limit."""


class Settings(BaseSettings):
    """All settings of the service; units are in the names."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, protected_namespaces=()
    )

    host: Annotated[str, Field(description="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8000
    model_dir: Annotated[
        Path | None, Field(description="Folder with model.onnx and manifest.json; the bundled model if not given.")
    ] = None
    engine: Annotated[
        EngineName, Field(description="Runtime of the model; auto takes the fastest that can be used, and logs why.")
    ] = "auto"
    precision: Annotated[
        PrecisionName, Field(description="Arithmetic of the graph; auto takes what the runtime is fastest with.")
    ] = "auto"
    input_size: Annotated[
        Size | None, NoDecode, Field(description="HEIGHTxWIDTH of the graph to serve; the model's first if not given.")
    ] = None
    engine_dir: Annotated[
        Path | None, Field(description="Folder of engines built from the model; its own folder engines if not given.")
    ] = None
    engine_file: Annotated[
        Path | None,
        Field(description="An engine built elsewhere, which you trust: loading an engine can run code that is in it."),
    ] = None
    max_image_bytes: Annotated[
        int, Field(ge=1024, le=1 << 30, description="Largest image file in bytes; a larger one is answered 413.")
    ] = 20 * 1024 * 1024
    max_image_pixels: Annotated[
        int, Field(ge=1, le=1 << 30, description="Largest image in pixels (width x height); a larger one: 413.")
    ] = 50_000_000
    max_batch_size: Annotated[
        int | None, Field(ge=1, le=256, description="Images that the model takes at once; what pays if not given.")
    ] = None
    batch_window_ms: Annotated[
        float, Field(ge=0, le=1000, description="Milliseconds that a batch waits to fill, from its oldest image.")
    ] = 2.0
    max_queue_size: Annotated[
        int, Field(ge=1, le=10_000, description="Requests inside the service at once, in any stage; one more: 503.")
    ] = 64
    request_timeout_s: Annotated[
        float, Field(gt=0, le=3600, description="Seconds from a request's arrival to its answer; then 504.")
    ] = 30.0
    drain_timeout_s: Annotated[
        float, Field(ge=0, le=3600, description="Seconds from SIGTERM until unanswered requests are given up.")
    ] = 20.0
    drain_delay_s: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="Seconds of drain_timeout_s in which new requests are still served while /readyz is 503: "
            "the time a load balancer needs to notice.",
        ),
    ] = 1.0
    codec_threads: Annotated[int, Field(ge=1, le=256, description="Threads that decode and encode images.")] = Field(
        default_factory=available_cpus
    )
    engine_threads: Annotated[int, Field(ge=1, le=256, description="CPU threads of one model run.")] = Field(
        default_factory=available_cpus
    )
    log_level: Annotated[LogLevel, Field(description="Least severe message to log.")] = "info"

    @field_validator("input_size", mode="before")
    @classmethod
    def _size_of_its_text(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator("port", mode="before")
    @classmethod
    def _port_of_a_service_link(cls, value: Any) -> Any:
        # Kubernetes sets ECENET_PORT=tcp://10.0.0.1:80 in every pod beside a Service named "ecenet".
        return cls.model_fields["port"].default if str(value).startswith("tcp://") else value


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Settings from the command line and the environment.

    Args:
        arguments: Command line without the program's name; that of the process if not given.

    Raises:
        SettingsError: Values out of range.
        SystemExit: ``--help`` or an unknown option, both told on the terminal.
    """
    given = vars(_parser().parse_args(arguments))
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(entry) for entry in error.errors())) from None


def option(name: str) -> str:
    """Command line option of a field: ``max_batch_size`` is ``--max-batch-size``."""
    return "--" + name.replace("_", "-")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-serve",
        description="Serve semantic segmentation over HTTP: an image in, a label map out.",
        epilog=_HELP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        text = str(field.description) + (f" Default: {default}." if default is not None else "")
        parser.add_argument(option(name), metavar=_metavar(name, field.annotation), help=text.replace("%", "%%"))
    return parser


def _metavar(name: str, annotation: Any) -> str:
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return "{" + ",".join(choices) + "}" if choices else name.rpartition("_")[2].upper()


def _explain(entry: ErrorDetails) -> str:
    """One sentence of one validation error: option, variable, value, what was expected."""
    name, reason = str(entry["loc"][0]), entry["msg"]
    return f"{option(name)} ({ENV_PREFIX}{name.upper()}) is {entry['input']!r}: {reason[:1].lower()}{reason[1:]}"
