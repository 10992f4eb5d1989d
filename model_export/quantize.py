"""INT8 graphs for a model directory: calibrated, with the layers that hurt in float32, measured, and in a table."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from model_export.images import Photo, photos_in
from model_export.int8_graph import Layer, QuantizableGraph
from model_export.quantize_settings import QuantizeSettings
from model_export.sensitivity import Choice, Damage, QuantizationError, choose_floats, rank
from model_export.staging import staging_folder
from service.engines.base import Rows
from service.engines.cpus import available_cpus
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.imaging.resize import resize_to_input
from service.model_directory.golden import Golden, read_golden
from service.model_directory.manifest import Bounds, GraphInfo, Manifest, file_sha256, read_manifest, write_manifest
from service.model_directory.sizes import Size, format_size

TABLE_NAME = "quantization.json"

# Every so many images one is held out: it is not calibrated on, but measured on.
_HELD_OUT_STEP = 4
# Two images are enough to rank the layers; the choice itself is measured on all that are held out.
_RANKING_IMAGES = 2
_TIMED_RUNS = 5
# Kernels of other CPUs round in other places: this share of labels may differ in any case.
_LEAST_MARGIN = 0.002

Images = Sequence[NDArray[np.uint8]]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians of runs of one image, float32 and INT8 in turn: milliseconds, and how many times faster INT8 is."""

    float_milliseconds: float
    int8_milliseconds: float
    speedup: float


@dataclass(frozen=True, slots=True)
class QuantizedGraph:
    """An INT8 graph, and the measurements behind it.

    Attributes:
        source: The float32 graph.
        info: The INT8 graph.
        layers: How many can be INT8.
        ranking: Damage of every layer, the worst first; empty where all of them are INT8.
        choice: The layers in float32.
        worst_image: Least share of equal labels, 0..1, of a held-out image (against float32) or a golden one (against
            PyTorch).
        timing: On this machine.
        images: How many images were calibrated on, and how many held out.
    """

    source: GraphInfo
    info: GraphInfo
    layers: int
    ranking: tuple[Damage, ...]
    choice: Choice
    worst_image: float
    timing: Timing
    images: tuple[int, int]


def quantize(
    directory: Path, calibration: Path, settings: QuantizeSettings | None = None, report: Report = lambda _: None
) -> list[QuantizedGraph]:
    """Add an INT8 graph to a model directory for each of its float32 graphs, and its row to ``quantization.json``.

    Args:
        directory: A model directory; its checkpoint need not exist.
        calibration: Folder of PNG or JPEG images, like those that the model will see.
        settings: See there.
        report: Called with a line on each step; there are minutes between them.

    Raises:
        QuantizationError: No float32 graph, an existing INT8 graph, a ``quantization.json`` that cannot be read, too
            few images, or a bound that is not reached. As with every error, the directory stays as it was.
        ManifestError: The directory is not a model directory.
        ValueError: A setting out of range, or images that cannot be read.
    """
    settings = settings or QuantizeSettings()
    if not 0 < settings.min_equal_labels <= 1:
        raise ValueError(f"min_equal_labels is {settings.min_equal_labels}, expected a share within 0..1")
    manifest = read_manifest(directory)
    sources = _sources(directory, manifest, settings)
    kept = _kept_rows(directory, manifest, sources)
    photos = spread(photos_in(calibration), settings.count)
    with staging_folder(directory) as folder:
        quantizations = [_Quantization(directory, manifest, source, folder) for source in sources]
        graphs = [quantization.run(photos, settings, report) for quantization in quantizations]
        _write_table(folder / TABLE_NAME, [*kept, *(_graph_dict(graph, settings) for graph in graphs)])
        publish(directory, manifest, folder, [graph.info for graph in graphs], TABLE_NAME)
    return graphs


def int8_name(size: Size) -> str:
    """File of the INT8 graph of an input size."""
    return f"model-{format_size(size)}-int8.onnx"


def table_rows(graph: QuantizedGraph) -> list[dict[str, Any]]:
    """The sensitivity table: per layer, the worst first, its loss alone, and its precision in the graph.

    Empty where no layer had to be left in float32.
    """
    return [
        {
            "layer": damage.layer.weight,
            "changed_labels": round(damage.changed_labels, 6),
            "precision": "fp32" if damage.layer in graph.choice.floats else "int8",
        }
        for damage in graph.ranking
    ]


class _Quantization:
    """From one float32 graph to an INT8 graph in a temporary folder."""

    def __init__(self, directory: Path, manifest: Manifest, source: GraphInfo, folder: Path) -> None:
        self._directory = directory
        self._manifest = manifest
        self._source = source
        self._folder = folder
        self._info = replace(source, file=int8_name(source.input_size), precision="int8")

    def run(self, photos: Sequence[Photo], settings: QuantizeSettings, report: Report) -> QuantizedGraph:
        source = self._source
        calibrated, held_out = split([resize_to_input(photo.read(), source.input_size) for photo in photos])
        report(f"{source.file}: calibrating on {len(calibrated)} images")
        graph = self._calibrated(calibrated)
        expected = self._labels(self._directory, source, held_out)
        ranking, choice = self._choose(graph, held_out, expected, settings.min_equal_labels, report)
        int8 = [layer for layer in graph.layers if layer not in choice.floats]
        worst = float(min(self._shares(graph, int8, held_out, expected).min(), self._golden_share()))
        return QuantizedGraph(
            source=source,
            info=self._measured_info(worst),
            layers=len(graph.layers),
            ranking=tuple(ranking),
            choice=choice,
            worst_image=worst,
            timing=self._timing(held_out[0]),
            images=(len(calibrated), len(held_out)),
        )

    def _choose(
        self, graph: QuantizableGraph, held_out: Images, expected: NDArray[np.uint8], least: float, report: Report
    ) -> tuple[list[Damage], Choice]:
        """Damage of every layer, and the layers in float32; neither is needed where all layers in INT8 are good enough.

        Raises:
            QuantizationError: See ``choose_floats``.
        """

        def equal_labels(layers: Collection[Layer]) -> float:
            return float(self._shares(graph, layers, held_out, expected).mean())

        name, few = self._source.file, held_out[:_RANKING_IMAGES]
        report(f"{name}: measuring all {len(graph.layers)} layers in INT8, on {len(held_out)} images")
        share = equal_labels(graph.layers)
        if share >= least:
            return [], Choice((), (share,))
        report(f"{name}: {share:.3%} of the labels are equal; measuring each layer alone in INT8, on {len(few)} images")
        few_expected = expected[:_RANKING_IMAGES]
        ranking = rank(graph.layers, lambda layers: float(self._shares(graph, layers, few, few_expected).mean()))
        report(f"{name}: choosing the layers that stay in float32, on {len(held_out)} images")
        return ranking, choose_floats(ranking, equal_labels, least)

    def _calibrated(self, images: Images) -> QuantizableGraph:
        path = self._folder / self._source.file  # a copy: the calibration writes beside it
        shutil.copyfile(self._directory / self._source.file, path)
        graph = QuantizableGraph(path, images)
        if not graph.layers:
            raise QuantizationError(f"{self._source.file} has no convolution, so that nothing of it would be INT8")
        return graph

    def _shares(
        self, graph: QuantizableGraph, layers: Collection[Layer], images: Images, expected: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Share of equal labels of each image, with these layers in INT8; the graph stays in the folder."""
        onnx.save(graph.quantize(layers), self._folder / self._info.file)
        equal = self._labels(self._folder, self._info, images) == expected
        shares: NDArray[np.float64] = equal.mean((1, 2))
        return shares

    def _golden_share(self) -> float:
        """As ``golden_share``; 1 where the directory has no golden inputs."""
        if self._manifest.golden is None:
            return 1.0
        golden = read_golden(self._directory, self._manifest, self._info.input_size)
        with closing(self._engine(self._folder, self._info)) as engine:
            return golden_share(golden, self._info, engine.infer)

    def _measured_info(self, worst_image: float) -> GraphInfo:
        """The graph's entry, with the bound that engines are held to."""
        digest = file_sha256(self._folder / self._info.file)
        return replace(self._info, sha256=digest, bounds=bounds_of(worst_image))

    def _timing(self, image: NDArray[np.uint8]) -> Timing:
        """Times taken in turn, so that other work on the machine slows both alike."""
        batch = image[None]
        with (
            closing(self._engine(self._directory, self._source)) as slow,
            closing(self._engine(self._folder, self._info)) as fast,
        ):
            pairs = [(_milliseconds(slow, batch), _milliseconds(fast, batch)) for _ in range(_TIMED_RUNS + 1)]
        floats, int8s = zip(*pairs[1:], strict=True)  # the first run of each warms it up
        speedup = statistics.median(slow / fast for slow, fast in pairs[1:])
        return Timing(statistics.median(floats), statistics.median(int8s), speedup)

    def _labels(self, folder: Path, info: GraphInfo, images: Images) -> NDArray[np.uint8]:
        """Labels (n, h, w) of images, one by one, at the stride of the graph's output."""
        with closing(self._engine(folder, info)) as engine:
            rows = np.concatenate([engine.infer(image[None]) for image in images])
        return rows.astype(np.uint8) if info.output == "labels" else rows.argmax(1).astype(np.uint8)

    def _engine(self, folder: Path, info: GraphInfo) -> OnnxRuntimeEngine:
        """The engine as the service would run it."""
        return OnnxRuntimeEngine(folder, self._manifest, info, num_threads=available_cpus())


def golden_share(golden: Golden, info: GraphInfo, infer: Callable[[NDArray[np.uint8]], Rows]) -> float:
    """Least share of equal labels of a golden image, against PyTorch.

    Args:
        golden: The images, and PyTorch's outputs.
        info: The graph to judge.
        infer: Gives the graph's rows of images (1, H, W, 3) uint8.
    """
    rows = (infer(image[None]) for image in golden.images)
    return min(golden.agreement(row, info, [index]).equal_labels for index, row in enumerate(rows))


def bounds_of(worst_image: float) -> Bounds:
    """The bounds of a graph whose worst image has this share of equal labels, 0..1: twice as many may differ."""
    margin = max(1 - worst_image, _LEAST_MARGIN)
    return Bounds(min_equal_labels=max(math.floor((worst_image - margin) * 1000) / 1000, 0.0))


def _milliseconds(engine: OnnxRuntimeEngine, batch: NDArray[np.uint8]) -> float:
    start = time.perf_counter()
    engine.infer(batch)
    return (time.perf_counter() - start) * 1e3


def _sources(directory: Path, manifest: Manifest, settings: QuantizeSettings) -> list[GraphInfo]:
    """The float32 graphs to quantise.

    Raises:
        QuantizationError: A size has none, or has an INT8 graph already.
    """
    floats = {graph.input_size: graph for graph in manifest.graphs if graph.precision == "fp32"}
    there = {graph.input_size: graph.file for graph in manifest.graphs if graph.precision == "int8"}
    found = manifest.graph_list
    sizes = dict.fromkeys(settings.sizes or floats)
    for size in sizes:
        if size not in floats:
            raise QuantizationError(f"{directory} has no fp32 graph of {format_size(size)} to quantise; it has {found}")
        if size in there and not settings.force:
            raise QuantizationError(f"{directory} has {there[size]} already; --force replaces it")
    if not sizes:
        raise QuantizationError(
            f"{directory} has no fp32 graph to quantise; it has {found}: export one with ecenet-export onnx"
        )
    return [floats[size] for size in sizes]


def spread(photos: Sequence[Photo], count: int) -> list[Photo]:
    """``count`` files at even distances, or all if there are no more: neighbours are often frames of one film.

    Raises:
        ValueError: ``count`` is too small to hold an image out.
        QuantizationError: There are too few to hold one out.
    """
    if count < _HELD_OUT_STEP:
        raise ValueError(f"the number of calibration images is {count}, expected {_HELD_OUT_STEP} or more")
    if len(photos) < _HELD_OUT_STEP:
        raise QuantizationError(
            f"{photos[0].path.parent} gives {len(photos)} images to calibrate on, expected {_HELD_OUT_STEP} or more, "
            f"better {QuantizeSettings().count}: name a folder with --calibration"
        )
    chosen = min(count, len(photos))
    return [photos[index * len(photos) // chosen] for index in range(chosen)]


def split(images: Images) -> tuple[Images, Images]:
    """Images to calibrate on, and held-out images."""
    kept = [image for index, image in enumerate(images, 1) if index % _HELD_OUT_STEP]
    return kept, images[_HELD_OUT_STEP - 1 :: _HELD_OUT_STEP]


def _kept_rows(directory: Path, manifest: Manifest, sources: Sequence[GraphInfo]) -> list[dict[str, Any]]:
    """The rows of the table whose graphs stay.

    Raises:
        QuantizationError: The table cannot be read.
    """
    path = directory / TABLE_NAME
    files = {graph.file for graph in manifest.graphs} - {int8_name(source.input_size) for source in sources}
    try:
        return [row for row in json.loads(path.read_text(encoding="utf-8"))["graphs"] if row["file"] in files]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise QuantizationError(f"{path} cannot be read ({error}); remove it to write a new one") from error


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = {
        "settings": {
            "activations": "uint8, per tensor, with a zero point",
            "weights": "7 of the 8 bits of int8, per output channel, symmetric",
            "ranges": "smallest and largest value, averaged over the calibration images",
            "layers_in_fp32": "the worst first, until min_equal_labels is reached on the images held out",
        },
        "graphs": rows,
    }
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _graph_dict(graph: QuantizedGraph, settings: QuantizeSettings) -> dict[str, Any]:
    calibrated, held_out = graph.images
    return {
        "file": graph.info.file,
        "source": graph.source.file,
        "onnxruntime": onnxruntime.__version__,
        "min_equal_labels": settings.min_equal_labels,
        "images": {"calibration": calibrated, "held_out": held_out},
        "equal_labels": {
            "by_layers_in_fp32": [round(share, 6) for share in graph.choice.equal_labels],
            "worst_image": round(graph.worst_image, 6),
            "bound": graph.info.bounds.min_equal_labels,
        },
        "milliseconds": {
            "fp32": round(graph.timing.float_milliseconds, 1),
            "int8": round(graph.timing.int8_milliseconds, 1),
            "speedup": round(graph.timing.speedup, 2),
        },
        "num_layers": graph.layers,
        "layers": table_rows(graph),
    }


def publish(directory: Path, manifest: Manifest, folder: Path, new: Sequence[GraphInfo], *others: str) -> None:
    """Move graphs and other files into the model directory, the manifest last: it never names a missing file."""
    replaced = {(info.input_size, info.precision) for info in new}
    kept = tuple(info for info in manifest.graphs if (info.input_size, info.precision) not in replaced)
    if len(kept) < len(manifest.graphs):  # its SHA-256 would not fit while the graph is replaced
        write_manifest(directory, replace(manifest, graphs=kept))
    for name in (*(info.file for info in new), *others):
        (folder / name).replace(directory / name)
    write_manifest(directory, replace(manifest, graphs=(*kept, *new)))
