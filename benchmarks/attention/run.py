"""Measure the naive attention against the fused one, all cases in one run; write results.json and results.png.

    python -m benchmarks.attention.run

README.md describes the measurements. The tables go to standard output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.accuracy.experiment import head_commit
from benchmarks.attention.graphs import FORMS, PARTS, Case, Form, Part, export
from benchmarks.attention.kernels import KernelError, tensorrt_kernels
from benchmarks.attention.measure import (
    MeasureError,
    count_nodes,
    largest_difference,
    memory_growth,
    open_session,
    random_inputs,
)
from benchmarks.attention.plot import draw
from benchmarks.attention.table import tables
from benchmarks.engines import take_turns
from model_export.graph_precision import to_fp16
from service.engines.tensorrt.compile import CompileError
from service.engines.tensorrt.layer_report import LayerReportError
from service.model_directory.machine import MachineError
from service.model_directory.manifest import LOGITS_STRIDE
from service.model_directory.sizes import size_argument

FOLDER = Path(__file__).parent
_MAX_DIFFERENCE = 1e-4
_PACKAGES = ("torch", "onnx", "onnxruntime")
_TENSORRT = "tensorrt-rtx-cu13"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the measurement.

    Attributes:
        repeats: Timed calls of each graph.
        threads: Threads of ONNX Runtime.
        tensorrt: Whether TensorRT-RTX builds the graphs too.
    """

    repeats: int = 25
    threads: int = 2
    tensorrt: bool = True


def measure(part: Part, case: Case, settings: Settings) -> dict[str, Any]:
    """Both forms of a part: an entry of ``rows`` in results.json.

    Raises:
        MeasureError: The forms give different results, or a process failed.
        MachineError: TensorRT-RTX is not installed.
        CompileError: It does not build a graph.
        KernelError: It does not report the memory.
        LayerReportError: The report has no layers.
    """
    with tempfile.TemporaryDirectory() as name:
        paths: dict[str, Path] = {form: Path(name) / f"{form}.onnx" for form in FORMS}
        kernels = {form: _export(part, form, case, paths[form], settings) for form in FORMS}
        sessions = {form: open_session(path, settings.threads) for form, path in paths.items()}
        inputs = random_inputs(sessions["naive"])
        difference = largest_difference(sessions["naive"], sessions["fused"], inputs)
        if not difference <= _MAX_DIFFERENCE:
            raise MeasureError(f"{part} of {case}: the forms differ by {difference:.1e}, at most {_MAX_DIFFERENCE:.0e}")
        times = take_turns([partial(session.run, None, inputs) for session in sessions.values()], settings.repeats)
        milliseconds = dict(zip(sessions, np.median(times, 0).tolist(), strict=True))
        forms = {
            form: {
                "ms": round(milliseconds[form], 3),
                "memory_bytes": memory_growth(paths[form], settings.threads),
                "nodes": count_nodes(paths[form], Path(name)),
                **kernels[form],
            }
            for form in FORMS
        }
    naive, fused = times.T
    ratio = round(float(np.median(naive / fused)), 3)
    return {
        "part": part,
        **asdict(case),
        "queries": case.queries,
        "time_ratio": ratio,
        "difference": difference,
    } | forms


def _export(part: Part, form: Form, case: Case, path: Path, settings: Settings) -> dict[str, int]:
    """Write the graph; gives what TensorRT-RTX makes of it in fp16, if asked for."""
    graph = export(part, form, case)
    onnx.save(graph, path)
    return asdict(tensorrt_kernels(to_fp16(graph))) if settings.tensorrt else {}


def run(cases: Sequence[Case], parts: Sequence[Part], settings: Settings, command: str) -> dict[str, Any]:
    """Measure the parts of all cases; gives the content of results.json."""
    rows = []
    for case, part in product(cases, parts):
        rows.append(measure(part, case, settings))
        print(f"K {case.num_classes}, Q {case.queries}, {part}: {rows[-1]['time_ratio']}", file=sys.stderr, flush=True)
    packages = [*_PACKAGES, *([_TENSORRT] if settings.tensorrt else [])]
    return {
        "command": command,
        "commit": head_commit(),
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        **asdict(settings),
        "rows": rows,
    }


def processor(cpuinfo: str) -> str:
    """Name, family and model of the processor, and how many of it, from Linux' ``/proc/cpuinfo``."""
    entries = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", cpuinfo, re.MULTILINE))
    count = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    name, family, model = (entries.get(key, "unknown") for key in ("model name", "cpu family", "model"))
    avx512 = "with" if re.search(r"\bavx512f\b", cpuinfo) else "without"
    return f"{count} x {name} (family {family}, model {model}, {avx512} AVX-512)"


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    cells = [tuple(-(-side // LOGITS_STRIDE) for side in size) for size in args.sizes]
    cases = [Case(k, size, args.channels, args.heads) for k, size in product(args.classes, cells)]
    command = shlex.join(["python", "-m", "benchmarks.attention.run", *arguments])
    try:
        results = run(cases, args.parts, Settings(args.repeats, args.threads, not args.without_tensorrt), command)
    except (MeasureError, CompileError, KernelError, LayerReportError, MachineError) as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(results, args.folder / "results.png")
    print(tables(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", nargs="+", type=int, default=[11, 19, 150], metavar="K")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=size_argument,
        default=[(320, 320), (360, 480), (640, 640)],
        metavar="HEIGHTxWIDTH",
        help="images in pixels; a query is a cell of 4x4 (default: 320x320 360x480 640x640, Q = 6400, 10800, 25600)",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: both)"
    )
    parser.add_argument("--channels", type=int, default=256, help="width C of the head (default: %(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="heads of the attention (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=25, help="timed calls of each graph (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime (default: %(default)s)")
    parser.add_argument("--without-tensorrt", action="store_true", help="leave TensorRT-RTX's figures out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
