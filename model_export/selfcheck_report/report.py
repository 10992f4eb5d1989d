"""The report of a self-check: measured step by step, written whole even where a step fails."""

from __future__ import annotations

import io
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_export.selfcheck_report import machine
from model_export.selfcheck_report.expectations import expectations
from model_export.selfcheck_report.load import LoadError, ask, environment_of, running_service
from model_export.selfcheck_report.measure import batch_times, engine_facts, saturation
from model_export.selfcheck_report.page import html_page
from service.engines.base import Engine, EngineError
from service.engines.measured_choice import open_engine
from service.engines.proof import repeats_of_proof
from service.engines.selfcheck import BATCH_SIZES, CheckedBatch, self_check
from service.model_directory.files import write_whole
from service.model_directory.golden import GoldenError, read_golden
from service.model_directory.manifest import Manifest, read_manifest
from service.settings import Settings

JSON_NAME, PAGE_NAME = "selfcheck.json", "selfcheck.html"
VERSION = 1
REPEATS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Measurements to make.

    Attributes:
        repeats: Timed runs of each batch size.
        clients: Numbers of clients that ask the service at once; empty to leave the service out.
        seconds: How long each number of clients asks.
        start_timeout_s: Longest wait for the service to be ready; it may build an engine first.
    """

    repeats: int = REPEATS
    clients: tuple[int, ...] = (1, 8, 32)
    seconds: float = 5.0
    start_timeout_s: float = 1800.0


def selfcheck_report(directory: Path, settings: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Measure engine and service of a model directory; gives the report as JSON.

    Args:
        directory: The model directory.
        settings: Settings beside those of the environment, by their names.
        plan: The measurements to make.

    Raises:
        ManifestError, GoldenError: The directory cannot be used. What fails after that is in the report.
    """
    manifest = read_manifest(directory)
    options = Settings(**settings).engine_options
    golden = read_golden(directory, manifest, options.input_size or manifest.graph.input_size)
    report: dict[str, Any] = {
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "model": {"name": manifest.name, "version": manifest.version, "classes": manifest.num_classes},
        "machine": machine.machine_facts(),
        "gpu_bytes_per_s": machine.gpu_bandwidth(),
    }
    report |= _measure_engine(directory, manifest, settings, plan)
    report["service"] = _measure_service(directory, golden.images[0], settings, plan)
    report["expectations"] = [asdict(row) for row in expectations(report)]
    return report


def write_report(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Write the report as JSON and as a page; gives both paths.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {JSON_NAME: json.dumps(_finite(report), indent=2, allow_nan=False) + "\n", PAGE_NAME: html_page(report)}
    for name, text in contents.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in contents]


def _measure_engine(directory: Path, manifest: Manifest, settings: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The engine and its speed; the reason in ``failure`` where it does not work or does not agree."""
    found: dict[str, Any] = {"failure": "", "engine": {}, "batches": [], "images_per_s": 0.0}
    found |= {"gpu_memory_bytes": None, "peak_memory_bytes": machine.peak_memory_bytes()}
    free = machine.free_gpu_bytes()
    try:
        engine = open_engine(directory, manifest, Settings(**settings).engine_options)
    except EngineError as error:
        return found | {"failure": str(error)}
    try:
        golden = read_golden(directory, manifest, engine.graph.input_size)  # which --engine-file or speed may choose
        self_check(engine, golden, engine.warm_up_sizes, repeats_of_proof(engine))
        checked: Sequence[CheckedBatch] = self_check(engine, golden, BATCH_SIZES, plan.repeats)
        left = machine.free_gpu_bytes()
        times = batch_times(engine, checked, plan.repeats)
        found |= {"batches": [asdict(row) for row in times], "images_per_s": saturation(times)}
        found["gpu_memory_bytes"] = None if free is None or left is None else free - left
    except (EngineError, GoldenError) as error:
        found["failure"] = str(error)
    finally:
        found |= {"engine": engine_facts(engine), "peak_memory_bytes": machine.peak_memory_bytes()}
        found["failure"] = found["failure"] or _close(engine)
    return found


def _close(engine: Engine) -> str:
    """Close an engine; gives the error of one whose GPU is lost, or an empty text."""
    try:
        engine.close()
    except EngineError as error:
        return str(error)
    return ""


def _measure_service(
    directory: Path, image: NDArray[np.uint8], settings: Mapping[str, Any], plan: Plan
) -> dict[str, Any]:
    if not plan.clients:
        return {"failure": "", "load": []}
    named = environment_of({**settings, "model_dir": directory.resolve()})
    try:
        with running_service(named, plan.start_timeout_s) as port:
            results = [ask(port, _jpeg(image), clients, plan.seconds) for clients in plan.clients]
    except (LoadError, OSError, EOFError) as error:
        return {"failure": str(error) or type(error).__name__, "load": []}
    return {"failure": "", "load": [asdict(result) for result in results]}


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _finite(value: Any) -> Any:
    """JSON has no NaN: a value that was not measured is null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
