"""mIoU against speed: runtimes, precisions and input sizes of a model, and other heads beside ECENet's.

    python -m benchmarks.accuracy.curve models/ecenet-lite0-camvid/checkpoint.pt --data DATA/camvid --work /tmp/curve

Writes ``curve.json`` and ``curve.png`` here. The left panel has a model's graphs, exported from its checkpoint at each
size, quantised, and evaluated on all of val by ONNX Runtime. The right one has the heads of ``compare``, with the mIoU
of its runs at their input size. The service's engines run those of a panel one image at a time in turn, and the median
counts. What ``--work`` holds already is used again; a panel that ``--panels`` does not name stays as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.experiment import head_commit
from benchmarks.accuracy.runs import FOLDER as COMPARISON
from benchmarks.accuracy.runs import read_run
from benchmarks.accuracy.variants import HEADS, VARIANTS, build_variant
from benchmarks.attention.run import processor
from benchmarks.engines import take_turns
from model_export.exportable import INPUT_NAME, Exportable
from model_export.onnx_export import GraphForms, ModelFacts, export_onnx
from model_export.quantize import quantize
from model_export.quantize_settings import QuantizeSettings
from service.engines.base import Engine
from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.engines.runtimes import PrecisionName, RuntimeName
from service.model_directory.manifest import GRAPH_NAME, GraphInfo, Manifest, file_sha256, read_manifest, write_manifest
from service.model_directory.sizes import Size, format_size
from trainer.datasets import CamVid
from trainer.prediction.evaluation import evaluate
from trainer.prediction.predictor import Network, network_predictor

FOLDER = Path(__file__).parent
RESULT, PICTURE = FOLDER / "curve.json", FOLDER / "curve.png"
SIZES: tuple[Size, ...] = ((576, 768), (448, 592), (384, 512), (352, 480))
ENGINES: tuple[tuple[RuntimeName, PrecisionName], ...] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
)
HEADS_SIZE: Size = (192, 256)
PANELS = ("model", "heads")
# Points of mIoU below which a head's label would cover that of the next better one.
_CLOSE = 0.2
_COLORS = {"onnxruntime fp32": "tab:blue", "onnxruntime int8": "tab:cyan", "openvino fp32": "tab:red"}


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a panel: a graph and what runs it, its mIoU on val in percent, and the milliseconds of an image."""

    name: str
    size: str
    miou: float
    milliseconds: float = 0.0


def model_directory(checkpoint: Path, data: Path, work: Path) -> Path:
    """The checkpoint's graphs of all sizes in float32 and INT8; written unless they exist."""
    directory = work / "model"
    if not directory.exists():
        export_onnx(checkpoint, directory, ModelFacts("model", "1"), GraphForms(SIZES), images=data)
        quantize(directory, data / "train", QuantizeSettings(count=24, min_equal_labels=0.985), report=print)
    return directory


def head_directory(name: str, work: Path) -> Path:
    """A head on the common backbone, with first weights: its time does not depend on them."""
    directory = work / name
    if directory.exists():
        return directory
    dataset_classes = read_manifest(work / "model").classes
    example = torch.zeros((2, *HEADS_SIZE, 3), dtype=torch.uint8)
    shapes = {INPUT_NAME: {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        Exportable(build_variant(name, len(dataset_classes))).eval(),
        (example,),
        dynamo=True,
        opset_version=23,
        input_names=[INPUT_NAME],
        output_names=["logits"],
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    directory.mkdir()
    onnx.save(program.model_proto, directory / GRAPH_NAME)
    graph = GraphInfo(GRAPH_NAME, file_sha256(directory / GRAPH_NAME), HEADS_SIZE)
    write_manifest(directory, Manifest(name, "1", name, dataset_classes, (graph,)))
    return directory


def score(engine: Engine, data: Path) -> float:
    """mIoU of an engine on val, in percent."""
    network = Network(engine.infer, engine.graph.input_size, fixed_size=True, max_batch_size=1)  # type: ignore[arg-type]
    return round(100 * evaluate(network_predictor(network), CamVid(data, "val")).scores().miou, 2)


def model_points(directory: Path, data: Path) -> Iterator[tuple[Point, Engine]]:
    """The model's points without their times. An INT8 graph has the score of ONNX Runtime on every runtime."""
    known: dict[str, float] = _read(directory.parent / "scores.json")
    for size in SIZES:
        for runtime, precision in ENGINES:
            options = EngineOptions(engine=runtime, precision=precision, input_size=size)
            engine = create_engine(directory, read_manifest(directory), options)
            key = f"{format_size(size)} {precision}"
            if key not in known:
                known[key] = score(engine, data)
                (directory.parent / "scores.json").write_text(json.dumps(known))
            yield Point(f"{runtime} {precision}", format_size(size), known[key]), engine


def head_points(work: Path) -> Iterator[tuple[Point, Engine]]:
    """The heads' points without their times; the mIoU is the mean of their runs."""
    for name in HEADS:
        directory = head_directory(name, work)
        engine = create_engine(directory, read_manifest(directory), EngineOptions(engine="onnxruntime"))
        runs = [read_run(path)["miou"] for path in sorted(COMPARISON.glob(f"{name}-seed*.json"))]
        yield Point(VARIANTS[name].title, format_size(HEADS_SIZE), round(100 * statistics.mean(runs), 2)), engine


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The content of ``curve.json``: each panel's points, and how they were measured."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    directory = model_directory(arguments.checkpoint, arguments.data, arguments.work)
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    panels = {"model": partial(model_points, directory, arguments.data), "heads": partial(head_points, arguments.work)}
    for panel in arguments.panels:
        result[panel] = {
            "points": [asdict(point) for point in _timed(panels[panel](), arguments.rounds)],
            "rounds": arguments.rounds,
            "threads": EngineOptions().num_threads,
            "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
            "commit": head_commit(),
        }
    return result


def _timed(pairs: Iterable[tuple[Point, Engine]], rounds: int) -> list[Point]:
    """The points with the times of their engines, which take turns."""
    with ExitStack() as opened:
        points, engines = zip(*((point, opened.enter_context(closing(engine))) for point, engine in pairs), strict=True)
        images = [np.zeros((1, *engine.graph.input_size, 3), np.uint8) for engine in engines]
        runs = [partial(engine.infer, image) for engine, image in zip(engines, images, strict=True)]
        times = np.median(take_turns(runs, rounds), 0).round(1).tolist()
    return [replace(point, milliseconds=each) for point, each in zip(points, times, strict=True)]


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the figure; speeds are relative to one of the panel's points, so that a slow machine changes little."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for place, (panel, draw_panel) in zip(axes, (("model", _draw_model), ("heads", _draw_heads)), strict=True):
        draw_panel(place, [Point(**point) for point in result[panel]["points"]])
    axes[0].set_ylabel("mIoU on CamVid val, %")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_model(axes: Axes, points: Sequence[Point]) -> None:
    for name in dict.fromkeys(point.name for point in points):
        own = [point for point in points if point.name == name]
        places = [_place(point, points[0]) for point in own]
        axes.plot(*zip(*places, strict=True), "o-", color=_COLORS.get(name, "tab:orange"), label=name)
    for point in [point for point in points if point.name == "openvino int8"]:
        _write(axes, "x".join(reversed(point.size.split("x"))), _place(point, points[0]))
    axes.margins(x=0.17)
    axes.legend(fontsize=8)
    axes.set_title("bundled model", fontsize=10)
    axes.set_xlabel("images/s relative to onnxruntime fp32 at 768x576")
    axes.grid(alpha=0.3)


def _draw_heads(axes: Axes, points: Sequence[Point]) -> None:
    ours = next(point for point in points if point.name == VARIANTS["ecenet"].title)
    for point in points:
        axes.plot(*_place(point, ours), "o", color="tab:blue" if point is ours else "tab:gray")
        is_below = any(0 < other.miou - point.miou < _CLOSE for other in points)
        _write(axes, point.name, _place(point, ours), is_below=is_below)
    axes.margins(x=0.2, y=0.1)
    height, width = HEADS_SIZE
    axes.set_title(f"heads after 450 steps, {width}x{height}, onnxruntime fp32", fontsize=10)
    axes.set_xlabel("images/s relative to ECENet's head")
    axes.grid(alpha=0.3)


def _write(axes: Axes, text: str, place: tuple[float, float], *, is_below: bool = False) -> None:
    """Write a text right of a point, above or below."""
    axes.annotate(text, place, xytext=(4, -9 if is_below else 4), textcoords="offset points", fontsize=7)


def _place(point: Point, reference: Point) -> tuple[float, float]:
    return reference.milliseconds / point.milliseconds, point.miou


def _read(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="curve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the model")
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--work", type=Path, required=True, help="folder for graphs and scores")
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=PANELS, help="default: both")
    parser.add_argument("--rounds", type=int, default=15, help="times of each engine (default: %(default)s)")
    result = measure(parser.parse_args(arguments))
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
