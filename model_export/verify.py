"""Every runtime on every graph of a model directory, image by image, against PyTorch's answers.

What PyTorch answers is the caller's: computed (``model_export.pytorch_cases``), or stored at the export. Nothing here
needs PyTorch, so that a machine that only serves can verify its model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engines.base import Engine, EngineError, Rows, warm_up
from service.engines.create import create_engine, obstacles
from service.engines.options import EngineOptions
from service.engines.runtimes import RUNTIMES, RuntimeName
from service.imaging.segmentation import labels_of
from service.model_directory.agreement import Agreement
from service.model_directory.golden import read_golden
from service.model_directory.manifest import STORED_PRECISIONS, GraphInfo, Manifest, Precision, in_bf16
from service.model_directory.sizes import Size
from trainer.metrics import Counts

# What an export may cost on labelled images: a share of equal labels, 0..1, and points (percent) of mIoU.
MIN_EQUAL_LABELS: Mapping[Precision, float] = {"fp32": 0.999}
MAX_MIOU_LOST: Mapping[Precision, float] = {"fp16": 0.1, "bf16": 0.3, "int8": 0.5, "fp8": 0.5}


class VerifyError(ValueError):
    """A verification that cannot run; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """The true label map of an image.

    Attributes:
        truth: (H, W) uint8, of the image's own size.
        pytorch: PyTorch's label map of that size, made from an output of the same form as a graph's; takes the graph.
    """

    truth: NDArray[np.uint8]
    pytorch: Callable[[GraphInfo], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Case:
    """An image, and how to compare with PyTorch's answer.

    Attributes:
        image: (h, w, 3) uint8, of the input's size.
        agreement: Takes an engine's rows for this image alone, and its graph.
        labelled: None for an image without labels.
    """

    image: NDArray[np.uint8]
    agreement: Callable[[Rows, GraphInfo], Agreement]
    labelled: Labelled | None = None


Cases = Callable[[Size], Iterator[Case]]
"""The images at an input size, one by one."""

Pair = tuple[RuntimeName, GraphInfo]
"""A runtime and a graph for it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A runtime on a graph.

    Attributes:
        runtime: What ran.
        graph: The graph it ran.
        images: How many images it was compared on.
        agreement: Largest logit error, and share of equal labels over all images; None if it failed.
        miou: Of the runtime, 0..1; None without labels.
        miou_lost: PyTorch's mIoU less the runtime's, in points (percent); None without labels.
        milliseconds: Median time of an image alone; None if it failed.
        fault: Why it does not pass, or None.
    """

    runtime: RuntimeName
    graph: GraphInfo
    images: int = 0
    agreement: Agreement | None = None
    miou: float | None = None
    miou_lost: float | None = None
    milliseconds: float | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """A runtime that cannot run a graph here, and why."""

    runtime: RuntimeName
    graph: GraphInfo
    reason: str


def fault_of(graph: GraphInfo, agreement: Agreement, miou_lost: float | None = None) -> str | None:
    """A sentence about the first value beyond the bounds, or None; NaN is beyond.

    Args:
        graph: The graph, which may have its own bounds.
        agreement: On all images.
        miou_lost: In points (percent); with labels, the bounds of the whole export hold too.
    """
    if miou_lost is None:
        return agreement.fault(graph.bounds)
    least = max(graph.bounds.min_equal_labels, MIN_EQUAL_LABELS.get(graph.precision, 0.0))
    faults = [agreement.fault(replace(graph.bounds, min_equal_labels=least))]
    limit = MAX_MIOU_LOST.get(graph.precision, np.inf)
    if not miou_lost <= limit:
        faults.append(f"{miou_lost:.2f} points of mIoU lost (at most {limit:.1f})")
    return ", ".join(fault for fault in faults if fault) or None


def pooled(agreements: Sequence[Agreement]) -> Agreement:
    """Agreement on several images of one size together: the share of all labels, and the largest error; NaN wins."""
    errors = [agreement.max_logit_error for agreement in agreements if agreement.max_logit_error is not None]
    share = float(np.mean([agreement.equal_labels for agreement in agreements]))
    return Agreement(share, float(np.max(errors)) if errors else None)


def graphs_to_verify(manifest: Manifest, precisions: Sequence[Precision], sizes: Sequence[Size]) -> list[GraphInfo]:
    """The graphs of these precisions and sizes; an empty sequence stands for all. Those of bf16 are to be asked for.

    Raises:
        VerifyError: There is none; the text lists those of the directory.
    """
    graphs = [*manifest.graphs, *(in_bf16(graph) for graph in manifest.graphs if graph.precision == "fp32")]
    wanted = precisions or STORED_PRECISIONS
    chosen = [graph for graph in graphs if graph.precision in wanted and (not sizes or graph.input_size in sizes)]
    if not chosen:
        raise VerifyError(f"{manifest.name} has no graph of this --precision and --size; it has {manifest.graph_list}")
    return chosen


def choose_pairs(
    graphs: Sequence[GraphInfo],
    asked: Sequence[RuntimeName],
    obstacle_of: Callable[[RuntimeName, GraphInfo], str | None],
) -> tuple[list[Pair], list[Absent]]:
    """Pairs of runtime and graph to verify, and the runtimes that cannot be used here.

    Args:
        graphs: To be verified.
        asked: The runtimes that were asked for; all that can be used if none.
        obstacle_of: The reason why a runtime cannot run a graph here, or None.

    Raises:
        VerifyError: A runtime that was asked for can run none of the graphs.
    """
    pairs: list[Pair] = []
    absent: list[Absent] = []
    for runtime in dict.fromkeys(asked or RUNTIMES):
        obstacles = {graph: obstacle_of(runtime, graph) for graph in graphs}
        reasons = {graph: reason for graph, reason in obstacles.items() if reason is not None}
        if asked and len(reasons) == len(obstacles):
            raise VerifyError(f"--runtime {runtime} cannot be used: {next(iter(reasons.values()))}")
        pairs += [(runtime, graph) for graph in graphs if graph not in reasons]
        absent += [Absent(runtime, graph, reason) for graph, reason in reasons.items()]
    return pairs, absent


class Engines:
    """The engines that would serve each graph of a model directory, were it the only one."""

    def __init__(self, directory: Path, manifest: Manifest, num_threads: int) -> None:
        self._directory = directory
        self._manifest = manifest
        self._num_threads = num_threads

    def obstacle(self, runtime: RuntimeName, graph: GraphInfo) -> str | None:
        """The reason why a runtime cannot run a graph here, or None."""
        return obstacles(self._directory, self._alone(graph), self._options(runtime, graph), [runtime])[runtime]

    def open(self, runtime: RuntimeName, graph: GraphInfo) -> Engine:
        """An engine, warmed up.

        Raises:
            EngineError: It cannot be loaded, is not what the manifest says, or does not run.
        """
        engine = create_engine(self._directory, self._alone(graph), self._options(runtime, graph))
        try:
            warm_up(engine)
        except EngineError:
            engine.close()
            raise
        return engine

    def _alone(self, graph: GraphInfo) -> Manifest:
        """The model, were the file of a graph its only one."""
        return replace(self._manifest, graphs=tuple(g for g in self._manifest.graphs if g.file == graph.file))

    def _options(self, runtime: RuntimeName, graph: GraphInfo) -> EngineOptions:
        return EngineOptions(
            engine=runtime,
            precision=graph.precision,
            input_size=graph.input_size,
            num_threads=self._num_threads,
            max_batch_size=1,
        )


def golden_cases(directory: Path, manifest: Manifest, size: Size) -> Iterator[Case]:
    """The golden inputs of a model directory with PyTorch's stored outputs.

    Raises:
        GoldenError: There are none of this size.
    """
    golden = read_golden(directory, manifest, size)
    for index, image in enumerate(golden.images):
        yield Case(image, partial(golden.agreement, indices=[index]))


def verify(
    pairs: Sequence[Pair],
    open_engine: Callable[[RuntimeName, GraphInfo], Engine],
    cases: Cases,
    num_classes: int,
    on_image: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Run the images of each input size through all engines of that size.

    One image is in memory at a time, and PyTorch's answer to it is made once for all engines.

    Args:
        pairs: What to verify.
        open_engine: Opens a graph on a runtime, or raises ``EngineError``, which fails this pair alone.
        cases: The images.
        num_classes: K.
        on_image: Called after each image of each size.
    """
    rows: list[Row] = []
    for size in dict.fromkeys(graph.input_size for _, graph in pairs):
        with ExitStack() as opened:
            runs: list[_Run] = []
            for runtime, graph in pairs:
                if graph.input_size != size:
                    continue
                try:
                    engine = opened.enter_context(closing(open_engine(runtime, graph)))
                except EngineError as error:
                    rows.append(Row(runtime, graph, fault=f"it cannot be opened: {error}"))
                else:
                    runs.append(_Run(runtime, engine, num_classes))
            rows += _run_all(runs, cases(size), on_image) if runs else []
    return rows


def _run_all(runs: Sequence[_Run], cases: Iterator[Case], on_image: Callable[[], object]) -> list[Row]:
    for case in cases:
        for run in runs:
            run.add(case)
        on_image()
    return [run.row() for run in runs]


class _Run:
    """An engine on image after image."""

    def __init__(self, runtime: RuntimeName, engine: Engine, num_classes: int) -> None:
        self.runtime = runtime
        self.engine = engine
        self.graph = engine.graph
        self.failure: str | None = None
        self.agreements: list[Agreement] = []
        self.seconds: list[float] = []
        self.counts = Counts.zeros(num_classes)
        self.pytorch_counts = Counts.zeros(num_classes)
        self.labelled = False

    def add(self, case: Case) -> None:
        if self.failure is not None:
            return
        start = time.perf_counter()
        try:
            rows = self.engine.infer(case.image[None])
        except Exception as error:
            self.failure = f"it failed on image {len(self.agreements) + 1}: {str(error) or type(error).__name__}"
            return
        self.seconds.append(time.perf_counter() - start)
        self.agreements.append(case.agreement(rows, self.graph))
        if case.labelled is not None:
            self._count(rows, case.labelled)

    def _count(self, rows: Rows, labelled: Labelled) -> None:
        height, width = labelled.truth.shape
        self.labelled = True
        self.counts.update(labelled.truth, labels_of(rows[0], (height, width)))
        self.pytorch_counts.update(labelled.truth, labelled.pytorch(self.graph))

    def row(self) -> Row:
        if self.failure is not None:
            return Row(self.runtime, self.graph, len(self.agreements), fault=self.failure)
        agreement = pooled(self.agreements)
        miou = lost = None
        if self.labelled:
            miou = self.counts.scores().miou
            lost = 100 * (self.pytorch_counts.scores().miou - miou)
        return Row(
            self.runtime,
            self.graph,
            len(self.agreements),
            agreement,
            miou,
            lost,
            1e3 * statistics.median(self.seconds),
            fault_of(self.graph, agreement, lost),
        )
