"""Measurements of this machine, kept for the next start: a JSON file per question that was asked."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from service.engines.options import EngineOptions
from service.engines.processor import processor
from service.engines.runtimes import CPU_RUNTIMES
from service.engines.trial import Candidate, Timing, Trial
from service.model_directory.machine import MachineError, detect_gpu
from service.model_directory.manifest import Manifest

logger = logging.getLogger(__name__)

# In the folder of what is kept for the next start.
CHOICE_FOLDER = "engine-choices"
_FORMAT = 3
_MAX_BYTES = 1 << 20
_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13")


def choice_key(manifest: Manifest, candidates: Sequence[Candidate], options: EngineOptions) -> str:
    """A name for all that the times depend on: graphs, runtimes and versions, processor, GPU, threads and streams."""
    facts = {
        "format": _FORMAT,
        "graphs": sorted(graph.sha256 for graph in manifest.graphs),
        "candidates": [str(candidate) for candidate in candidates],
        "versions": {name: _version(name) for name in _PACKAGES},
        "processor": processor(),
        "gpu": _gpu(candidates),
        "threads": options.num_threads,
        "streams": options.num_streams,
        "max_batch_size": options.max_batch_size,
        "input_size": options.input_size,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_trials(folder: Path, key: str, candidates: Sequence[Candidate], num_streams: int) -> list[Trial]:
    """The stored trials of these candidates, or none; a file that is damaged or of others causes a warning.

    Args:
        folder: Of all stored choices.
        key: See ``choice_key``.
        candidates: Those that could serve.
        num_streams: Most runs at once.
    """
    path = folder / f"{key}.json"
    try:
        with path.open("rb") as file:
            trials = [_trial(entry) for entry in json.loads(file.read(_MAX_BYTES))]
        if [trial.candidate for trial in trials] != list(candidates):
            raise ValueError("it is of other runtimes or precisions")
        if any(trial.timing is not None and trial.timing.num_streams > num_streams for trial in trials):
            raise ValueError(f"it has more than {num_streams} streams")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        logger.warning("%s cannot be used, so engines are measured again: %s", path, error)
        return []
    return trials


def write_trials(folder: Path, key: str, trials: Sequence[Trial]) -> None:
    """Store a measurement, in one step; a folder that cannot be written causes a warning."""
    text = json.dumps([asdict(trial) for trial in trials], indent=2)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".choice-") as own:
            file = Path(own, "choice.json")
            file.write_text(text, encoding="utf-8")
            file.replace(folder / f"{key}.json")
    except OSError as error:
        logger.warning("the choice of the engine cannot be stored, so the next start measures again: %s", error)


def _trial(entry: Any) -> Trial:
    candidate, timing = Candidate(**entry["candidate"]), entry["timing"]
    if timing is None:
        return Trial(candidate, None, str(entry["fault"]))
    times = Timing(float(timing["alone"]), float(timing["per_image"]), int(timing["num_streams"]))
    if not (times.score > 0 and times.num_streams > 0):
        raise ValueError(f"times are {timing}")
    return Trial(candidate, times)


def _gpu(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The GPU and its driver, if one of the candidates runs on it."""
    if all(candidate.runtime in CPU_RUNTIMES for candidate in candidates):
        return ()
    try:
        return detect_gpu()
    except MachineError:  # the candidate fails of it too, and says so
        return ()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
