"""An import as the command line asks for it, and the text of its result."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.datasets.errors import DatasetError, MissingFileError
from trainer.datasets.files import plural
from trainer.datasets.importing.collector import Source
from trainer.datasets.importing.convert import Imported, Options, convert
from trainer.datasets.importing.sources import in_terms_of, opened_export


def import_export(args: argparse.Namespace) -> int:
    """Make the dataset; gives the exit status: 1 if the export cannot be imported."""
    options = Options(
        unlabelled=args.unlabelled,
        only=tuple(name.strip() for name in args.only.split(",") if name.strip()),
        share=args.split,
        by=args.by,
        exif=not args.no_exif,
        incomplete=args.incomplete,
        workers=args.workers,
    )
    opened = args.export
    try:
        with opened_export(args.export) as opened:
            folders = tuple(Path(os.path.normpath(folder)) for folder in args.images)
            if absent := [folder for folder in folders if not folder.is_dir()]:
                raise MissingFileError(f"--images {absent[0]} is no folder")
            source = Source(opened, folders, args.classes, exif=options.exif)
            imported = convert(args.tool, source, args.output, options, _progress)
    except (DatasetError, OSError) as error:
        print(f"ecenet-train data import: {in_terms_of(args.export, opened, str(error))}", file=sys.stderr)  # noqa: T201
        return 1
    print(in_terms_of(args.export, opened, _text(imported, args.output)))  # noqa: T201
    return 0


def _text(imported: Imported, output: Path) -> str:
    """Text of the result: the sizes, the classes, the notes, and the next command."""
    counts = ", ".join(f"{name} {plural(count, 'image')}" for name, count in imported.sizes.items())
    lines = [
        f"{output}: {counts}",
        f"classes: {', '.join(imported.classes)}",
        *(f"note: {note}" for note in imported.notes),
        f"next: ecenet-train data check {shlex.quote(str(output))}",
    ]
    return "\n".join(lines)


def _progress(drawn: Iterator[Any], total: int) -> Iterable[Any]:
    return tqdm(drawn, desc="images", total=total, unit="image", disable=None)  # None: only on a terminal
