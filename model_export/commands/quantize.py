"""``ecenet-export quantize``: INT8 or FP8 graphs beside the other graphs of a model directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from model_export.commands.base import Commands
from model_export.quantize_settings import QuantizeSettings
from service.model_directory.sizes import format_size, size_argument

if TYPE_CHECKING:
    from model_export.quantize import QuantizedGraph

_DEFAULTS = QuantizeSettings()
# Layers of the table that are printed; all are in the file.
_PRINTED_LAYERS = 10


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "quantize",
        help="add INT8 graphs, or FP8 graphs for TensorRT, to a model directory",
        description="Add an INT8 graph (QDQ) for each float32 graph of a model directory. If too few labels are equal, "
        "the layers that hurt stay in float32, and quantization.json lists what each layer loses. "
        "They are exact on every CPU: weights have 7 bits, so that no sum overflows. TensorRT builds from a copy with "
        "symmetric steps. With --precision fp8, add an FP8 graph for each fp16 graph, for TensorRT on GPUs of "
        "compute capability 8.9 or newer. A few minutes per graph; the checkpoint is not needed.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a model directory")
    parser.add_argument(
        "--calibration",
        type=Path,
        required=True,
        metavar="IMAGES",
        help="folder of images like those that the model will see, e.g. training images; labels are not needed",
    )
    parser.add_argument(
        "--count",
        type=int,
        default=_DEFAULTS.count,
        help="most images, taken evenly from all; every fourth is held out to measure on (default: %(default)s)",
    )
    parser.add_argument(
        "--min-equal-labels",
        type=float,
        default=_DEFAULTS.min_equal_labels,
        metavar="SHARE",
        help="leave layers in float32, the worst first, until this share of labels, 0..1, is that of the float32 graph "
        "on the images held out (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=size_argument,
        action="append",
        default=[],
        help="HEIGHTxWIDTH of the input of a graph to quantise; repeat it for several; default: all",
    )
    parser.add_argument(
        "--precision",
        choices=["int8", "fp8"],
        default="int8",
        help="arithmetic of the new graphs (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing graphs of the precision")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Quantise, and print the result."""
    settings = QuantizeSettings(tuple(args.size), args.count, args.min_equal_labels, args.force)
    return _run_fp8(args, settings) if args.precision == "fp8" else _run_int8(args, settings)


def _run_fp8(args: argparse.Namespace, settings: QuantizeSettings) -> int:
    from model_export.fp8 import quantize_fp8  # noqa: PLC0415

    for graph in quantize_fp8(args.directory, args.calibration, settings, lambda line: print(line, flush=True)):
        info = graph.info
        calibrated, held_out = graph.images
        print(f"{info.file}: input {format_size(info.input_size)}, {info.output}, calibrated on {calibrated} images")
        print(
            f"  equal labels {graph.equal_labels:.3%} on {held_out} images held out, {graph.worst_image:.3%} on the "
            f"worst image; the engine is held to {info.bounds.min_equal_labels:.1%}"
        )
    return 0


def _run_int8(args: argparse.Namespace, settings: QuantizeSettings) -> int:
    from model_export.quantize import TABLE_NAME, quantize  # noqa: PLC0415

    for graph in quantize(args.directory, args.calibration, settings, report=lambda line: print(line, flush=True)):
        print(graph_text(graph))
    print(f"all layers: {args.directory / TABLE_NAME}")
    return 0


def graph_text(graph: QuantizedGraph) -> str:
    """Lines on a graph: its share of equal labels, its speed, and its layers."""
    info, choice, timing = graph.info, graph.choice, graph.timing
    rows = graph.ranking[:_PRINTED_LAYERS]
    table = [
        f"{damage.changed_labels:9.3%}  {'fp32' if damage.layer in choice.floats else 'int8'}  {damage.layer.weight}"
        for damage in rows
    ]
    head = ["  labels that change when a layer alone is int8, its precision here, and its weight:"] if rows else []
    return "\n".join(
        [
            f"{info.file}: input {format_size(info.input_size)}, {info.output}, {len(choice.floats)} of "
            f"{graph.layers} layers in fp32",
            f"  equal labels {choice.equal_labels[-1]:.3%} on {graph.images[1]} images held out "
            f"({choice.equal_labels[0]:.3%} with all layers in int8), {graph.worst_image:.3%} on the worst image; "
            f"the engine is held to {info.bounds.min_equal_labels:.1%}",
            f"  {timing.int8_milliseconds:.0f} ms an image here, fp32 {timing.float_milliseconds:.0f} ms: "
            f"{timing.speedup:.2f} times faster",
            *head,
            *(f"  {line}" for line in table),
        ]
    )
