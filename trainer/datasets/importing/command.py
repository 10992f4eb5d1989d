"""``ecenet-train data import``: a dataset from what an annotation tool exports."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainer.datasets.errors import DatasetError
from trainer.datasets.files import plural
from trainer.datasets.importing.class_table import UNLABELLED
from trainer.datasets.importing.collector import Source
from trainer.datasets.importing.convert import READERS, Imported, Options, convert
from trainer.datasets.importing.sources import opened_export

EPILOG = """what each tool calls the export:
  coco         COCO JSON: a file, or a folder with annotations and images
  labelme      the folder with a .json file per image
  labelstudio  JSON or JSON_MIN; or "Brush labels to PNG" with the JSON export beside the masks
  cvat         "CVAT for images 1.1" or "Segmentation mask 1.1"
  roboflow     "COCO Segmentation" or "Semantic Segmentation Masks"
  supervisely  "Supervisely JSON": the folder of the project
  masks        folders of images and masks: values, 0 and 255, or colours

EXPORT may be the .zip or .tar that the tool gave.

example:
  ecenet-train data import export.zip --from cvat -o my-data --split 0.2
  ecenet-train data check my-data
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status: 1 if the export cannot be imported."""
    args = argument_parser().parse_args(arguments)
    options = Options(
        unlabelled=args.unlabelled,
        only=tuple(name.strip() for name in args.only.split(",") if name.strip()),
        share=args.split,
        by=args.by,
        exif=not args.no_exif,
        incomplete=args.incomplete,
        workers=args.workers,
    )
    try:
        with opened_export(args.export) as path:
            source = Source(path, tuple(Path(os.path.normpath(folder)) for folder in args.images), args.classes)
            imported = convert(args.tool, source, args.output, options, _progress)
    except (DatasetError, OSError) as error:
        print(f"ecenet-train data import: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(_text(imported, args.output))  # noqa: T201
    return 0


def _text(imported: Imported, output: Path) -> str:
    """Text of the result: the sizes, the classes, the notes, and the next command."""
    counts = ", ".join(f"{name} {plural(count, 'image')}" for name, count in imported.sizes.items())
    lines = [
        f"{output}: {counts}",
        f"classes: {', '.join(imported.classes)}",
        *(f"note: {note}" for note in imported.notes),
        f"next: ecenet-train data check {output}",
    ]
    return "\n".join(lines)


def _progress(drawn: Iterator[Any], total: int) -> Iterable[Any]:
    return tqdm(drawn, desc="images", total=total, unit="image", disable=None)  # None: only on a terminal


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to below 1")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train data import",
        description="Make a dataset of what an annotation tool exports.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="the export: a folder, a file or an archive")
    parser.add_argument("--from", dest="tool", required=True, choices=tuple(READERS), help="the tool")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the dataset; new or empty")
    parser.add_argument(
        "--split",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="share of the images for val, 0 to below 1, where the export has no val of its own (default: 0.2)",
    )
    parser.add_argument(
        "--by",
        choices=("auto", "sequence", "class"),
        default="auto",
        help="keep sequences whole, or balance the classes (default: sequences if the names tell of several)",
    )
    parser.add_argument(
        "--unlabelled",
        choices=UNLABELLED,
        default=UNLABELLED[0],
        help="what unlabelled pixels become: a class, or nothing that counts (default: background)",
    )
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="classes to keep, with commas between; the others are unlabelled"
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="FOLDER", help="where images lie that the export lacks"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="classes of masks: classes.json, class_dict.csv, labelmap.txt, ..."
    )
    parser.add_argument("--no-exif", action="store_true", help="shapes were drawn on pixels as they are stored")
    parser.add_argument("--incomplete", action="store_true", help="leave out missing and broken files, and name them")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="threads (default: one per CPU)")
    return parser
