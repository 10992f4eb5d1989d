"""``auto`` by measurement: every runtime and precision at hand that agrees with PyTorch is timed, and the best serves.

The result is kept in the state folder, so that only the first start on a machine takes the time. Times differ from one
processor to the next by more than their order: OpenVINO in INT8 is 2.5 times as fast as ONNX Runtime in float32 where
the processor has VNNI, and no fixed order is right everywhere.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from service.engines.base import Engine, warm_up
from service.engines.choice import measured_precisions, smallest_size
from service.engines.choice_memory import CHOICE_FOLDER, choice_key, read_trials, write_trials
from service.engines.cpus import available_memory
from service.engines.create import build_if_wanted, create_engine, is_decided, runtime_obstacle
from service.engines.options import EngineOptions
from service.engines.processor import processor
from service.engines.proof import prove_engine
from service.engines.runtimes import CPU_RUNTIMES, RUNTIMES, RuntimeName
from service.engines.tensorrt.cuda import gpu_obstacle
from service.engines.trial import Candidate, Timing, Trial, best_trial, quickest, time_engine
from service.model_directory.engine_store import EngineStoreError, state_folder
from service.model_directory.manifest import Manifest

logger = logging.getLogger(__name__)

TimeEngine = Callable[[Engine], Timing]

# More streams on more CPUs save little more: a run's threads wait for each other less than the runs do for memory.
_MAX_STREAMS = 4
# Streams of the bundled model take about 80 MB each; the rest is for workers, requests and other models.
_MEMORY_PER_STREAM = 1 << 30
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class MeasuredChoice:
    """The engine that serves, and those that were tried.

    Attributes:
        candidate: The runtime and precision that serve.
        num_streams: Runs at once.
        trials: All trials, in the order of the runtimes.
        remembered: True if an earlier start has measured it.
    """

    candidate: Candidate
    num_streams: int
    trials: tuple[Trial, ...]
    remembered: bool

    def __str__(self) -> str:
        how = "remembered from an earlier start" if self.remembered else "measured"
        return f"{self.candidate} serves ({how}): {'; '.join(self.rows())}"

    def rows(self) -> list[str]:
        """A line per trial that was timed; precisions that fail for the same reason share one."""
        timed = [str(trial) for trial in self.trials if trial.timing is not None]
        precisions: dict[tuple[str, str], list[str]] = defaultdict(list)
        for trial in self.trials:
            if trial.timing is None:
                precisions[trial.candidate.runtime, trial.fault].append(trial.candidate.precision)
        faults = [f"{runtime} {', '.join(names)}: {fault}" for (runtime, fault), names in precisions.items()]
        return timed + faults


def open_engine(
    model_dir: Path, manifest: Manifest, options: EngineOptions, *, measure: TimeEngine = time_engine
) -> Engine:
    """The engine of a model directory, by measurement where ``options`` ask for it and leave a choice.

    Raises:
        EngineError: See ``create_engine``; or nothing at hand can serve.
    """
    options = build_if_wanted(model_dir, manifest, _completed(options, manifest))
    choice = measured_choice(model_dir, manifest, options, measure=measure)
    if choice is None:
        return create_engine(model_dir, manifest, options)
    logger.info("%s", choice)
    return create_engine(model_dir, manifest, _chosen(options, choice.candidate, choice.num_streams))


def explain_engine(model_dir: Path, manifest: Manifest, options: EngineOptions) -> str:
    """The processor, and a line per runtime and precision with its times or its fault; what serves has an arrow.

    Measures what no earlier start has measured.

    Raises:
        EngineError: See ``open_engine``.
    """
    options = build_if_wanted(model_dir, manifest, _completed(options, manifest))
    choice = measured_choice(model_dir, manifest, options)
    head = f"{manifest.name} {manifest.version} on {processor()}, {options.num_threads} threads"
    if choice is None:
        with closing(create_engine(model_dir, manifest, options)) as engine:
            return f"{head}\n-> {engine.name} {engine.graph.precision}: the settings leave no choice to measure"
    best = next(str(trial) for trial in choice.trials if trial.candidate == choice.candidate)
    rows = [f"{'->' if row == best else '  '} {row}" for row in choice.rows()]
    return "\n".join([head, *rows])


def measured_choice(
    model_dir: Path, manifest: Manifest, options: EngineOptions, *, measure: TimeEngine = time_engine
) -> MeasuredChoice | None:
    """The best available engine; None if the options ask for no measurement, or name the engine.

    Raises:
        EngineError: Nothing can serve.
    """
    if not options.measure or is_decided(options):
        return None
    candidates, passed_over = _candidates(model_dir, manifest, options)
    if any(candidate.runtime in CPU_RUNTIMES for candidate in candidates):
        options = replace(options, num_streams=_num_streams(options))
    if len(candidates) < 2 and options.num_streams == 1:
        return None
    folder = None if options.cache_dir is None else options.cache_dir / CHOICE_FOLDER
    key = choice_key(manifest, candidates, options)
    trials = [] if folder is None else read_trials(folder, key, candidates, options.num_streams)
    remembered = _still_serves(trials, model_dir, manifest, options)
    if not remembered:
        logger.info("measuring %s: no earlier start has", ", ".join(map(str, candidates)))
        trials = _try(candidates, model_dir, manifest, options, measure)
    best, timing = best_trial(trials)
    if folder is not None and not remembered:
        write_trials(folder, key, trials)
    return MeasuredChoice(best, timing.num_streams, (*trials, *passed_over), remembered)


def _still_serves(trials: Sequence[Trial], model_dir: Path, manifest: Manifest, options: EngineOptions) -> bool:
    """True if one of the trials can serve, and nothing was found that speaks against the best."""
    if not any(trial.timing for trial in trials):
        return False
    best, _ = best_trial(trials)
    return _obstacle(best, model_dir, manifest, options) is None


def _num_streams(options: EngineOptions) -> int:
    """Streams to try on a CPU: one for each GiB, thread and image of a batch, as those are shared out over them."""
    most = min(options.num_threads, options.max_batch_size or _MAX_STREAMS, _MAX_STREAMS)
    return max(options.num_streams, min(most, available_memory() // _MEMORY_PER_STREAM))


def _candidates(model_dir: Path, manifest: Manifest, options: EngineOptions) -> tuple[list[Candidate], list[Trial]]:
    """Candidates to be tried, and those that cannot be, with the reason.

    A runtime for CPUs is one if it is installed. It is not imported here, so that a remembered choice imports no other
    than the one that serves: the key of the memory has the versions.
    """
    candidates, passed_over = [], []
    for runtime in RUNTIMES if options.engine == "auto" else [options.engine]:
        for precision in measured_precisions(manifest, runtime, options.input_size):
            candidate = Candidate(runtime, precision)
            is_installed = runtime in CPU_RUNTIMES and find_spec(runtime) is not None
            reason = None if is_installed else _no_gpu(runtime) or _obstacle(candidate, model_dir, manifest, options)
            if reason is None:
                candidates.append(candidate)
            else:
                passed_over.append(Trial(candidate, None, reason))
    return candidates, passed_over


def _no_gpu(runtime: RuntimeName) -> str | None:
    """The reason against ONNX Runtime on a GPU that needs no import of it, or None."""
    return gpu_obstacle() if runtime == "onnxruntime-cuda" else None


def _obstacle(candidate: Candidate, model_dir: Path, manifest: Manifest, options: EngineOptions) -> str | None:
    asked = replace(options, engine=candidate.runtime, precision=candidate.precision)
    return runtime_obstacle(candidate.runtime, model_dir, manifest, asked)


def _try(
    candidates: Sequence[Candidate], model_dir: Path, manifest: Manifest, options: EngineOptions, measure: TimeEngine
) -> list[Trial]:
    """Compare each candidate with PyTorch, and time them in turn, round by round; a failure is its own.

    Rounds are spread out, so that other work on the machine affects all alike. Each opens its engine again: several
    at once would take more memory than serving does.
    """
    obstacles = {candidate: _obstacle(candidate, model_dir, manifest, options) for candidate in candidates}
    faults = {candidate: obstacle for candidate, obstacle in obstacles.items() if obstacle is not None}
    rounds: dict[Candidate, list[Timing]] = {candidate: [] for candidate in candidates}
    for candidate in [*candidates] * _ROUNDS:
        if candidate in faults:
            continue
        try:
            chosen = _chosen(options, candidate, options.num_streams)
            with closing(create_engine(model_dir, manifest, chosen)) as engine:
                if rounds[candidate]:
                    warm_up(engine)
                else:
                    prove_engine(engine, model_dir, manifest)
                rounds[candidate].append(measure(engine))
        except Exception as error:
            faults[candidate] = str(error) or type(error).__name__
    return [
        Trial(candidate, None, fault)
        if (fault := faults.get(candidate)) is not None
        else Trial(candidate, quickest(rounds[candidate]))
        for candidate in candidates
    ]


def _chosen(options: EngineOptions, candidate: Candidate, num_streams: int) -> EngineOptions:
    return replace(options, engine=candidate.runtime, precision=candidate.precision, num_streams=num_streams)


def _completed(options: EngineOptions, manifest: Manifest) -> EngineOptions:
    """The options with the input size that ``speed`` stands for, and the folder of what is kept."""
    size = smallest_size(manifest) if options.speed and options.input_size is None else options.input_size
    return replace(options, input_size=size, cache_dir=options.cache_dir or _state())


def _state() -> Path | None:
    """The state folder; one that cannot be written causes a warning, and None if it does not exist either."""
    try:
        folder = state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (EngineStoreError, OSError) as error:
        logger.warning("nothing is kept for the next start: %s", error)
        return None
    if not os.access(folder, os.W_OK):
        logger.warning("nothing more is kept for the next start: %s cannot be written", folder)
    return folder
