"""``ecenet-export inspect``: the content of a model directory, an ONNX file or an engine."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_export.commands.base import Commands
from service.model_directory.engine_store import ENGINE_SUFFIX
from service.model_directory.sizes import format_size

if TYPE_CHECKING:
    from model_export.inspection import DirectoryFacts, EngineFacts, GraphFacts

_LABEL_WIDTH = 13
_LINE_WIDTH = 120
_NO_BREAK = "\N{NO-BREAK SPACE}"


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "inspect",
        help="show what a model directory, an ONNX file or an engine holds",
        description="Show inputs, outputs, precision, operators, attentions and how many are fused, size and FLOPs. "
        "Nothing is run, and no engine is loaded.",
    )
    parser.add_argument("path", type=Path, metavar="DIR|FILE", help="a model directory, an .onnx or an .engine file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Inspect, and print the result."""
    from model_export.inspection import inspect_directory, inspect_engine, inspect_graph  # noqa: PLC0415

    path: Path = args.path
    if path.is_dir():
        directory = inspect_directory(path)
        print(_json(directory_dict(directory)) if args.json else directory_text(directory))
    elif path.suffix == ENGINE_SUFFIX:
        engine = inspect_engine(path)
        print(_json(engine_dict(engine)) if args.json else engine_text(engine))
    else:
        graph = inspect_graph(path)
        print(_json(graph_dict(graph)) if args.json else graph_text(graph))
    return 0


def directory_text(facts: DirectoryFacts) -> str:
    """A paragraph on the model, and one on each graph and engine."""
    manifest = facts.manifest
    golden = [f"{format_size(size)} ({count})" for size, count in facts.golden.items()]
    rows = {
        "model": f"{manifest.name} {manifest.version}, {manifest.architecture}, {manifest.num_classes} classes",
        "checkpoint": facts.checkpoint_fault or "there, as it was exported",
        "golden": f"images of {', '.join(golden)}" if golden else "none",
        "engines": str(len(facts.engines)),
    }
    head = _paragraph(str(facts.directory), rows)
    graphs = [
        graph_text(graph, "(default)" if graph is facts.graphs[0] else "", stated=info.precision)
        for graph, info in zip(facts.graphs, manifest.graphs, strict=True)
    ]
    engines = [engine_text(engine, _graph_file(facts, engine) or "none of this directory") for engine in facts.engines]
    return "\n\n".join([head, *graphs, *engines, *facts.engine_faults])


def graph_text(facts: GraphFacts, note: str = "", stated: str = "") -> str:
    """A paragraph on an ONNX graph; ``stated`` is the precision that a manifest gives for it."""
    count = facts.attentions
    kinds = f"{count.plain} of SAUs, {count.masked} of windows with a mask"
    precision = facts.precision or "no weights"
    rows = {
        "inputs": ", ".join(map(str, facts.inputs)),
        "outputs": ", ".join(map(str, facts.outputs)),
        "precision": precision + (f"; the manifest states {stated}" if stated not in ("", precision) else ""),
        "attention": f"{count.nodes} Attention nodes ({kinds}), {count.decomposed} decomposed",
        "FLOPs": f"not counted: {facts.flops_fault}" if facts.flops is None else f"{facts.flops / 1e9:.1f} G per image",
        "size": _megabytes(facts.num_bytes),
        "operators": _operators(facts.operators),
        "opset": str(facts.opset),
    }
    return _paragraph(f"{facts.path} {note}".rstrip(), rows)


def engine_text(facts: EngineFacts, graph_file: str | None = None) -> str:
    """A paragraph on an engine; ``graph_file`` is the graph that it was built from, if known."""
    info, machine = facts.info, facts.info.key.machine
    least, best, most = info.key.profile
    gpu = f"{machine.gpu_name}, compute capability {machine.compute_capability or 'unknown'}"
    rows = {
        "graph": graph_file or f"SHA-256 {info.key.graph_sha256}",
        "input": f"images (B, {info.input_size[0]}, {info.input_size[1]}, 3) uint8, B {least}..{most}, best {best}",
        "output": f"{info.output} at stride {info.output_stride}, {info.num_classes} classes",
        "precision": info.precision,
        "attention": f"{info.fused_attentions} of {info.attentions} fused",
        "runtime": f"{machine.runtime} {machine.runtime_version}",
        "GPU": gpu + (f", driver of CUDA {machine.driver_version}" if machine.driver_version else ""),
        "flags": ", ".join(info.key.flags) or "none",
        "size": _megabytes(facts.num_bytes),
        "built": _time(info.built),
        "signature": facts.signature_fault or "of this installation",
        "usable here": "yes" if facts.obstacle is None else f"no: {facts.obstacle}",
    }
    return _paragraph(str(info.path), rows)


def directory_dict(facts: DirectoryFacts) -> dict[str, Any]:
    """A model directory for JSON."""
    return {
        "directory": str(facts.directory),
        "manifest": asdict(facts.manifest),
        "checkpoint_fault": facts.checkpoint_fault,
        "golden": {format_size(size): count for size, count in facts.golden.items()},
        "graphs": [graph_dict(graph) for graph in facts.graphs],
        "engines": [{**engine_dict(engine), "graph": _graph_file(facts, engine)} for engine in facts.engines],
        "engine_faults": list(facts.engine_faults),
    }


def graph_dict(facts: GraphFacts) -> dict[str, Any]:
    """An ONNX graph for JSON."""
    return {**asdict(facts), "path": str(facts.path)}


def engine_dict(facts: EngineFacts) -> dict[str, Any]:
    """An engine for JSON: its manifest, and whether it may be loaded here."""
    return {
        **asdict(facts.info),
        "path": str(facts.info.path),
        "num_bytes": facts.num_bytes,
        "signature_fault": facts.signature_fault,
        "machine_fault": facts.machine_fault,
        "usable": facts.obstacle is None,
    }


def _graph_file(facts: DirectoryFacts, engine: EngineFacts) -> str | None:
    graph = facts.graph_of(engine.info)
    return None if graph is None else graph.file


def _paragraph(title: str, rows: Mapping[str, str]) -> str:
    return "\n".join([title, *(_row(label, text) for label, text in rows.items())])


def _row(label: str, text: str) -> str:
    begin = f"  {label:<{_LABEL_WIDTH}}"
    filled = textwrap.fill(
        text,
        _LINE_WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled.replace(_NO_BREAK, " ")


def _operators(operators: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count}{_NO_BREAK}{name}" for name, count in operators.items())
    return f"{sum(operators.values())}: {counts}"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)
