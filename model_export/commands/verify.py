"""``ecenet-export verify``: every usable runtime against PyTorch, on the same images."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from model_export.commands.base import Commands
from model_export.source_checkpoint import checkpoint_fault
from service.engines.cpus import available_cpus
from service.engines.runtimes import RUNTIMES
from service.model_directory.extras import install_command
from service.model_directory.manifest import PRECISIONS, Manifest, read_manifest
from service.model_directory.sizes import Size, format_size, size_argument
from trainer.arguments import positive

if TYPE_CHECKING:
    from model_export.verify import Absent, Case, Cases, Row

_DEFAULT_COUNT = 8
_HEAD = (
    "runtime",
    "graph",
    "input",
    "precision",
    "images",
    "logit error",
    "equal labels",
    "mIoU",
    "lost",
    "ms/image",
    "verdict",
)
_FIGURES = frozenset(_HEAD[4:10])


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A reference: its cases, the number of images of each size (None: all that are stored), and its name."""

    cases: Cases
    count: int | None
    name: str


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = commands.add_parser(
        "verify",
        help="compare every runtime on every graph of a model directory with PyTorch",
        description="Measure the largest logit error, the share of equal labels, and with labels the mIoU, of every "
        "usable runtime on every graph, against PyTorch on the same images. The exit status is 1 beyond the bounds.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="model directory")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--images", type=Path, help="image or folder of images; default: generated ones")
    images.add_argument("--data", type=Path, help="folder of a dataset with labels, as for ecenet-evaluate")
    parser.add_argument(
        "--dataset",
        metavar="KIND",
        help="kind of dataset (default: the model's if the folder fits it, else the folder's)",
    )
    parser.add_argument("--split", default="val", help="split of the dataset (default: val)")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="weights for PyTorch; default: the manifest's, if they still exist. Without them, the comparison uses the "
        "outputs of PyTorch stored at the export",
    )
    parser.add_argument("--count", type=positive, help=f"number of images (default: {_DEFAULT_COUNT}; all with --data)")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        action="append",
        default=[],
        help="runtime to verify, an error if it cannot be used; repeat it for several; default: all that can be used",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", default=[], help="graphs of this precision only"
    )
    parser.add_argument(
        "--size", type=size_argument, action="append", default=[], help="graphs of this HEIGHTxWIDTH only"
    )
    parser.add_argument("--threads", type=positive, help="CPU threads of an engine (default: one per CPU)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace) -> int:
    """Verify, print the table, and give the exit status."""
    from model_export.verify import Engines, choose_pairs, graphs_to_verify, verify  # noqa: PLC0415

    manifest = read_manifest(args.directory)
    engines = Engines(args.directory, manifest, args.threads or available_cpus())
    graphs = graphs_to_verify(manifest, args.precision, args.size)
    pairs, absent = choose_pairs(graphs, args.runtime, engines.obstacle)
    comparison = _comparison(args, manifest)
    num_sizes = len({graph.input_size for _, graph in pairs})
    with _progress(None if comparison.count is None else comparison.count * num_sizes) as on_image:
        rows = verify(pairs, engines.open, comparison.cases, manifest.num_classes, on_image)
    print(f"{args.directory} against {comparison.name}")
    print("\n".join([*table(rows), *faults(rows), *absences(absent)]))
    return 0 if rows and all(row.fault is None for row in rows) else 1


def table(rows: Sequence[Row]) -> list[str]:
    """A line per runtime and graph, below a head; mIoU in percent, its loss in points."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def faults(rows: Sequence[Row]) -> list[str]:
    """A sentence for each row that does not pass."""
    return [f"{row.runtime} on {row.graph.file} does not pass: {row.fault}" for row in rows if row.fault is not None]


def absences(absent: Sequence[Absent]) -> list[str]:
    """A sentence for each runtime that was not verified, and each reason."""
    graphs: dict[tuple[str, str], list[str]] = {}
    for entry in absent:
        graphs.setdefault((entry.runtime, entry.reason), []).append(entry.graph.file)
    return [
        f"{runtime} was not verified on {', '.join(files)}: {reason}" for (runtime, reason), files in graphs.items()
    ]


def _cells(row: Row) -> list[str]:
    agreement = row.agreement
    error = None if agreement is None else agreement.max_logit_error
    return [
        row.runtime,
        row.graph.file,
        format_size(row.graph.input_size),
        row.graph.precision,
        str(row.images),
        "-" if error is None else f"{error:.1e}",
        "-" if agreement is None else f"{agreement.equal_labels:.3%}",
        "-" if row.miou is None else f"{row.miou:.2%}",
        "-" if row.miou_lost is None else f"{round(row.miou_lost, 2) + 0.0:.2f}",  # never -0.00
        "-" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        "ok" if row.fault is None else "FAILS",
    ]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, figures to the right."""
    return [
        f"{cell:>{width}}" if name in _FIGURES else f"{cell:<{width}}"
        for cell, width, name in zip(cells, widths, _HEAD, strict=True)
    ]


def _comparison(args: argparse.Namespace, manifest: Manifest) -> _Comparison:
    """PyTorch on images, or its outputs from the export where PyTorch or the checkpoint is missing.

    Raises:
        VerifyError: PyTorch would be needed for the images that are named.
    """
    from model_export.verify import VerifyError, golden_cases  # noqa: PLC0415

    missing = None if importlib.util.find_spec("torch") else f"PyTorch is not installed: {install_command('train')}"
    if missing is None and args.checkpoint is not None:
        return _pytorch_comparison(args, manifest, args.checkpoint)
    if missing is None and (fault := checkpoint_fault(args.directory, manifest)) is not None:
        missing = f"{fault}; name it with --checkpoint"
    if missing is None:
        assert manifest.checkpoint is not None  # or there had been a fault
        return _pytorch_comparison(args, manifest, (args.directory / manifest.checkpoint.file).resolve())
    for option in ("checkpoint", "data", "images"):
        if getattr(args, option) is not None:
            raise VerifyError(f"--{option} cannot be used: {missing}")
    if manifest.golden is None:
        raise VerifyError(f"{args.directory} has no golden inputs to verify on, and {missing}")

    def cases(size: Size) -> Iterator[Case]:
        return islice(golden_cases(args.directory, manifest, size), args.count)

    return _Comparison(cases, None, f"PyTorch's outputs stored in {manifest.golden.file}: {missing}")


def _pytorch_comparison(args: argparse.Namespace, manifest: Manifest, checkpoint: Path) -> _Comparison:
    from model_export.pytorch_cases import (  # noqa: PLC0415
        generated_pictures,
        labelled_pictures,
        load_exportable,
        open_fitting,
        pictures_in,
        pytorch_cases,
    )

    count: int = args.count or _DEFAULT_COUNT
    if args.data is not None:
        dataset = open_fitting(checkpoint, args.dataset, args.data, args.split)
        pictures = labelled_pictures(dataset, args.split, args.count)
    else:
        pictures = generated_pictures(count) if args.images is None else pictures_in(args.images, count)
    cases = pytorch_cases(load_exportable(checkpoint, manifest), pictures)
    return _Comparison(cases, pictures.count, f"PyTorch with {checkpoint} on {pictures.name}")


@contextmanager
def _progress(count: int | None) -> Iterator[Callable[[], object]]:
    """A progress bar on the terminal while PyTorch runs; gives the callback for each image."""
    if count is None:
        yield lambda: None
        return
    from tqdm import tqdm  # noqa: PLC0415

    with tqdm(total=count, unit="image", mininterval=1) as bar:
        yield bar.update
