"""One immutable set of settings: the environment (``ECENET_...``) over defaults; ``command_line`` adds the others."""

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

    host: Annotated[str, Field(description="Address to listen on; 0.0.0.0 means every address.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port to listen on; 0 chooses a free one.")] = 8000
    workers: Annotated[
        int | None,
        Field(
            ge=1,
            le=64,
            description="Processes that serve HTTP, in front of one engine process. "
            "Default, or auto: as many as the processors allow and the measured engine can use.",
        ),
    ] = None
    max_worker_bytes: Annotated[
        int | None,
        Field(
            ge=1 << 28,
            le=1 << 44,
            description="Largest address space of a worker in bytes; an allocation beyond it fails, and with it the "
            "request. Default: no limit.",
        ),
    ] = None
    model_dir: Annotated[
        Path | None,
        Field(description="Model directory, or a folder of model directories. Default: the bundled model."),
    ] = None
    default_model: Annotated[
        str | None,
        Field(description="Name of the model that answers requests without a model name. Default: the first name."),
    ] = None
    engine: Annotated[
        EngineName,
        Field(description="Runtime of the model; auto measures those at hand and logs what it tried."),
    ] = "auto"
    precision: Annotated[
        PrecisionName,
        Field(
            description="Arithmetic of the graph; auto takes the fastest that agrees with PyTorch. A named one is used "
            "without a measurement. bf16 needs OpenVINO, fp8 TensorRT."
        ),
    ] = "auto"
    exact: Annotated[
        bool,
        Field(
            description="Let auto compute in float32 with the first usable runtime, so that answers depend on no "
            "measurement. An INT8 graph changes about 1% of the labels, bf16 less."
        ),
    ] = False
    input_size: Annotated[
        Size | None,
        NoDecode,
        Field(description="HEIGHTxWIDTH in pixels of the graph to serve. Default: the first of the model."),
    ] = None
    speed: Annotated[
        bool,
        Field(
            description="Serve the smallest input size of the model in place of its first: less time for an image, and "
            "less accuracy. The model card has both."
        ),
    ] = False
    engine_dir: Annotated[
        Path | None, Field(description="Folder of the TensorRT engines. Default: engines in the model directory.")
    ] = None
    engine_file: Annotated[
        Path | None,
        Field(
            description="TensorRT engine built elsewhere. Loading it can run code from the file: name only one "
            "that you trust."
        ),
    ] = None
    build_engine: Annotated[
        bool,
        Field(
            description="Build a missing TensorRT engine into engine_dir at the start. auto then uses TensorRT, or the "
            "start fails."
        ),
    ] = False
    state_dir: Annotated[
        Path | None,
        Field(
            description="Folder of the key that signs engines, of measured times, and of compiled graphs. "
            "Default: the user's state folder."
        ),
    ] = None
    max_image_bytes: Annotated[
        int, Field(ge=1024, le=1 << 30, description="Largest image file in bytes; a larger one gets 413.")
    ] = 20 * 1024 * 1024
    max_image_pixels: Annotated[
        int,
        Field(ge=1, le=1 << 30, description="Largest image in pixels (width x height); a larger one gets 413."),
    ] = 50_000_000
    max_decode_s: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="CPU seconds to decode an image of an unusual structure, plus one for every 25 million pixels; "
            "a slower image gets 413.",
        ),
    ] = 2.0
    cache_bytes: Annotated[
        int,
        Field(
            ge=0,
            le=1 << 36,
            description="Bytes of cached answers; the least recently used ones are dropped. 0 disables the cache.",
        ),
    ] = 0
    max_images_per_request: Annotated[
        int, Field(ge=1, le=10_000, description="Most images in one request to /segment/batch; more get 400.")
    ] = 64
    max_many_images_bytes: Annotated[
        int,
        Field(ge=1024, le=1 << 34, description="Largest request to /segment/batch in bytes; a larger one gets 413."),
    ] = 64 * 1024 * 1024
    many_images_memory_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1 << 36,
            description="Bytes of images and answers that all requests to /segment/batch hold together; one more "
            "request gets 503. A single request may always use max_many_images_bytes.",
        ),
    ] = 256 * 1024 * 1024
    max_batch_size: Annotated[
        int | None,
        Field(
            ge=1,
            le=256,
            description="Most images in one model run. Default: chosen from the timings of the warm-up.",
        ),
    ] = None
    batch_window_ms: Annotated[
        float | None,
        Field(
            ge=0,
            le=1000,
            description="Milliseconds that a batch waits for more images, counted from its oldest. Default: chosen "
            "from the timings of the warm-up.",
        ),
    ] = None
    max_requests_in_flight: Annotated[
        int,
        Field(ge=1, le=10_000, description="Most requests in the service at once, in all stages; one more gets 503."),
    ] = 64
    max_pixels_in_flight: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 40,
            description="Most decoded pixels of all requests in the service; one more image gets 503. A single image "
            "may always have max_image_pixels.",
        ),
    ] = 400_000_000
    max_connections: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Most open connections; one more gets 503. The limit of file handles may lower it.",
        ),
    ] = 2048
    max_connections_per_client: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Most open connections of one client address; one more gets 503. Default: half of "
            "max_connections.",
        ),
    ] = None
    header_timeout_s: Annotated[
        float,
        Field(gt=0, le=3600, description="Seconds for the headers of a request to arrive; a slower client gets 408."),
    ] = 10.0
    keep_alive_timeout_s: Annotated[
        int,
        Field(
            ge=1,
            le=86_400,
            description="Seconds that an idle connection stays open. Keep it above a load balancer's own timeout (60 s "
            "is common), or the balancer sends requests into closed connections.",
        ),
    ] = 75
    request_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="Seconds from a request's arrival to its answer; then 504. The header X-Request-Timeout-Ms "
            "overrides it.",
        ),
    ] = 30.0
    max_request_timeout_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=3600,
            description="Most seconds that X-Request-Timeout-Ms may ask for. Default: request_timeout_s.",
        ),
    ] = None
    engine_timeout_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=3600,
            description="Seconds for one model run; then /readyz is 503 and all waiting requests fail. "
            "Default: 10 times the slowest warm-up run, at least 10.",
        ),
    ] = None
    process_timeout_s: Annotated[
        float,
        Field(
            ge=5,
            le=86_400,
            description="Seconds without a sign of life after which the engine process or a worker is killed and a new "
            "one started.",
        ),
    ] = 30.0
    load_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=86_400,
            description="Seconds to load and check a model, the build of its engine included; then the start or the "
            "change fails, and the version that serves continues.",
        ),
    ] = 1200.0
    drain_timeout_s: Annotated[
        float, Field(ge=0, le=3600, description="Seconds from SIGTERM until unanswered requests are dropped.")
    ] = 20.0
    drain_delay_s: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="Seconds of drain_timeout_s in which new requests are still served while /readyz is "
            "503, so that a load balancer notices.",
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
        Field(
            description="API keys that clients must send: NAME:KEY or NAME:sha256:HEX, separated by commas or lines."
        ),
    ] = None
    api_keys_file: Annotated[
        Path | None,
        Field(description="File of API keys, one a line, # for comments; a change takes effect within a second."),
    ] = None
    rate_limit_per_s: Annotated[
        float | None, Field(gt=0, le=1e6, description="Most requests per second of each API key; more get 429.")
    ] = None
    rate_limit_burst: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Requests that an idle API key may send at once. Default: those of one second.",
        ),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...] | None,
        NoDecode,
        Field(description="Origins of web pages that may call the service, separated by commas; * allows all."),
    ] = None
    tls_cert: Annotated[
        Path | None, Field(description="Certificate chain, PEM; with it the service speaks HTTPS only.")
    ] = None
    tls_key: Annotated[Path | None, Field(description="Private key of tls_cert, PEM, without a passphrase.")] = None
    log_level: Annotated[LogLevel, Field(description="Least severe messages to log.")] = "info"
    log_format: Annotated[
        LogFormat, Field(description="console: lines for people; json: one JSON object per line.")
    ] = "console"
    otlp_endpoint: Annotated[
        str | None,
        Field(
            pattern="^https?://",
            description="URL of an OpenTelemetry collector (OTLP over HTTP) for traces. Default: "
            "OTEL_EXPORTER_OTLP_ENDPOINT; without both, no traces.",
        ),
    ] = None

    @field_validator("input_size", mode="before")
    @classmethod
    def _size_of_its_text(cls, value: Any) -> Any:
        return parse_size(value) if isinstance(value, str) else value

    @field_validator("workers", mode="before")
    @classmethod
    def _automatic_workers(cls, value: Any) -> Any:
        return None if value == "auto" else value

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
        if self.speed and self.input_size is not None:
            raise ValueError("--speed and --input-size both choose an input size; leave out one")
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
            precision="fp32" if self.exact and self.precision == "auto" else self.precision,
            input_size=self.input_size,
            speed=self.speed,
            num_threads=self.engine_threads,
            max_batch_size=self.max_batch_size,
            engine_dir=self.engine_dir,
            engine_file=self.engine_file,
            build_engine=self.build_engine,
            measure=not self.exact,
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
        """Arguments over environment; the other sources of pydantic-settings are not used."""
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
    """True for a field whose value must not be shown."""
    annotation = Settings.model_fields[name].annotation
    return SecretStr in (annotation, *get_args(annotation))


def variable(name: str) -> str:
    """Environment variable of a field: ``max_batch_size`` is ``ECENET_MAX_BATCH_SIZE``."""
    return ENV_PREFIX + name.upper()


def option(name: str) -> str:
    """The public name of a field: ``--max-batch-size``, or the variable of a secret, since command lines are public."""
    return variable(name) if is_secret(name) else "--" + name.replace("_", "-")
