"""One immutable set of settings, the environment (``ECENET_...``) over defaults; ``command_line`` reads the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.engines.cpus import available_cpus
from service.engines.options import EngineOptions
from service.engines.runtimes import EngineName, PrecisionName
from service.model_directory.sizes import Size, parse_size

ENV_PREFIX = "ECENET_"
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


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
        Path | None,
        Field(
            description="Folder with model.onnx and manifest.json, or folder of several such; the bundled model if not "
            "given."
        ),
    ] = None
    default_model: Annotated[
        str | None,
        Field(description="Name of the model that answers requests which name none; the first by name if not given."),
    ] = None
    engine: Annotated[
        EngineName, Field(description="Runtime of the model; auto takes the fastest that can be used, and logs why.")
    ] = "auto"
    precision: Annotated[
        PrecisionName,
        Field(description="Arithmetic of the graph; auto takes the fastest that was exported, and bf16 is OpenVINO's."),
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
    build_engine: Annotated[
        bool,
        Field(
            description="Build a TensorRT engine that is missing at the start, into engine_dir; with it auto takes "
            "TensorRT or stops."
        ),
    ] = False
    state_dir: Annotated[
        Path | None,
        Field(description="Folder of the key that signs engines; the user's state folder if not given."),
    ] = None
    max_image_bytes: Annotated[
        int, Field(ge=1024, le=1 << 30, description="Largest image file in bytes; a larger one is answered 413.")
    ] = 20 * 1024 * 1024
    max_image_pixels: Annotated[
        int, Field(ge=1, le=1 << 30, description="Largest image in pixels (width x height); a larger one: 413.")
    ] = 50_000_000
    cache_bytes: Annotated[
        int,
        Field(ge=0, le=1 << 36, description="Bytes of the latest answers to keep for equal requests; 0 keeps none."),
    ] = 0
    max_batch_images: Annotated[
        int, Field(ge=1, le=10_000, description="Images of one request to /segment/batch; one more: 400.")
    ] = 64
    max_batch_bytes: Annotated[
        int,
        Field(ge=1024, le=1 << 34, description="Bytes of one request to /segment/batch; a larger one: 413."),
    ] = 64 * 1024 * 1024
    batch_memory_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1 << 36,
            description="Bytes that all requests to /segment/batch hold, images and answers; one more: 503. One alone "
            "may have max_batch_bytes.",
        ),
    ] = 256 * 1024 * 1024
    max_batch_size: Annotated[
        int | None, Field(ge=1, le=256, description="Images that the model takes at once; what pays if not given.")
    ] = None
    batch_window_ms: Annotated[
        float | None,
        Field(
            ge=0,
            le=1000,
            description="Milliseconds that a batch waits to fill, from its oldest image; what pays if not given.",
        ),
    ] = None
    max_requests_in_flight: Annotated[
        int, Field(ge=1, le=10_000, description="Requests inside the service at once, in any stage; one more: 503.")
    ] = 64
    max_pixels_in_flight: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 40,
            description="Decoded pixels of all requests inside the service; one image more: 503. An image alone may "
            "have max_image_pixels.",
        ),
    ] = 400_000_000
    request_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="Seconds from a request's arrival to its answer; then 504. X-Request-Timeout-Ms asks for "
            "another time.",
        ),
    ] = 30.0
    max_request_timeout_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=3600,
            description="Longest time in seconds that X-Request-Timeout-Ms may ask for; request_timeout_s if not "
            "given.",
        ),
    ] = None
    engine_timeout_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=3600,
            description="Seconds that the engine has for a batch; then /healthz is 503 and all who wait are told; 10 "
            "times the slowest batch of the warm-up, at least 10, if not given.",
        ),
    ] = None
    load_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=86_400,
            description="Seconds that a model has to be loaded and to prove itself, the build of its engine included; "
            "then the start has failed, or the change of a model, and what served before goes on.",
        ),
    ] = 1200.0
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
    api_keys: Annotated[
        SecretStr | None,
        Field(description="Keys that clients must send, NAME:KEY or NAME:sha256:HEX, separated by commas or lines."),
    ] = None
    api_keys_file: Annotated[
        Path | None,
        Field(description="File of such keys, one a line, # for comments; read again within a second of a change."),
    ] = None
    rate_limit_per_s: Annotated[
        float | None, Field(gt=0, le=1e6, description="Requests a second of each API key; one more is answered 429.")
    ] = None
    rate_limit_burst: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="Requests that an idle key may send at once; one second's if not given."),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...] | None,
        NoDecode,
        Field(description="Web pages that may call the service: origins separated by commas, or * for all."),
    ] = None
    tls_cert: Annotated[
        Path | None, Field(description="Certificate chain, PEM; with it the service speaks HTTPS alone.")
    ] = None
    tls_key: Annotated[Path | None, Field(description="Private key of tls_cert, PEM, without a passphrase.")] = None
    log_level: Annotated[LogLevel, Field(description="Least severe message to log.")] = "info"
    log_format: Annotated[LogFormat, Field(description="Lines for people, or one JSON object a line for machines.")] = (
        "console"
    )
    otlp_endpoint: Annotated[
        str | None,
        Field(
            pattern="^https?://",
            description="URL of an OpenTelemetry collector for traces, OTLP over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT if "
            "not given, and none without that.",
        ),
    ] = None

    @field_validator("input_size", mode="before")
    @classmethod
    def _size_of_its_text(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins_of_their_text(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for origin in origins or ():
            parts = urlsplit(origin)
            if origin not in {"*", f"{parts.scheme}://{parts.netloc}"}:
                raise ValueError(f"{origin!r} is not an origin such as https://example.org or http://localhost:3000")
        return origins

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key belong together; one of them is missing")
        if self.rate_limit_burst is not None and self.rate_limit_per_s is None:
            raise ValueError("--rate-limit-burst needs --rate-limit-per-s")
        if self.rate_limit_per_s is not None and self.api_keys is None and self.api_keys_file is None:
            raise ValueError("--rate-limit-per-s counts by API key; set --api-keys-file or ECENET_API_KEYS too")
        return self

    @property
    def engine_options(self) -> EngineOptions:
        """The engine that every model gets."""
        return EngineOptions(
            engine=self.engine,
            precision=self.precision,
            input_size=self.input_size,
            num_threads=self.engine_threads,
            max_batch_size=self.max_batch_size,
            engine_dir=self.engine_dir,
            engine_file=self.engine_file,
            build_engine=self.build_engine,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment; pydantic-settings knows more sources, which are not wanted."""
        return init_settings, Environment(settings_cls)


class Environment(EnvSettingsSource):
    """The values that the environment has."""

    def __call__(self) -> dict[str, Any]:
        """Text by field name."""
        values = super().__call__()
        # Kubernetes sets ECENET_PORT=tcp://10.0.0.1:80 in every pod beside a Service named "ecenet".
        if str(values.get("port")).startswith("tcp://"):
            del values["port"]
        return values


def is_secret(name: str) -> bool:
    """Whether a field must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def variable(name: str) -> str:
    """Environment variable of a field: ``max_batch_size`` is ``ECENET_MAX_BATCH_SIZE``."""
    return ENV_PREFIX + name.upper()


def option(name: str) -> str:
    """What to call a field: ``--max-batch-size``, or the variable of a secret, as everybody can read command lines."""
    return variable(name) if is_secret(name) else "--" + name.replace("_", "-")
