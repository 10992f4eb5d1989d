"""``ecenet-train data``: ``import`` makes a dataset of a tool's export, ``check`` looks through one.

The work is imported after the arguments are read, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from trainer.arguments import positive

TOOLS = ("coco", "labelme", "labelstudio", "cvat", "roboflow", "supervisely", "masks")
UNLABELLED = ("background", "void")
SHEET_NAME = "contact-sheet.png"
USAGE = """usage: ecenet-train data import EXPORT --from TOOL -o FOLDER
       ecenet-train data check [KIND] ROOT

  import   make a dataset of what an annotation tool exports
  check    look through a dataset: counts, class shares, broken files, faults, a contact sheet

Each has its own --help. Without a command, the arguments are those of check.
"""
IMPORT_EPILOG = """name of the export in each tool:
  coco         COCO JSON: a file, or a folder with annotations and images
  labelme      the folder with a .json file per image
  labelstudio  JSON or JSON_MIN; or "Brush labels to PNG" with the JSON export beside the masks
  cvat         "CVAT for images 1.1" or "Segmentation mask 1.1"
  roboflow     "COCO Segmentation" or "Semantic Segmentation Masks"
  supervisely  "Supervisely JSON": the folder of the project
  masks        folders of images and masks: values, 0 and 255, or colours

EXPORT may be the .zip or .tar of the tool.

example:
  ecenet-train data import export.zip --from cvat -o my-data --split 0.2
  ecenet-train data check my-data
"""
CHECK_EPILOG = """example:
  ecenet-train data check my-data
  ecenet-train data check camvid data/camvid
  ecenet-train data check folder my-data --split train val --output sheet.png --json data.json

The exit status is 1 if a file is missing or cannot be used, and if the dataset cannot train well: no val split, labels
that are void all over, a class that train does not show, masks of 0 and 255 of which 255 is not a class, the same image
in two splits. The report names each fault and its remedy.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")  # noqa: T201
        return 0 if arguments else 2
    if arguments[0] == "import":
        args = import_parser().parse_args(arguments[1:])
        from trainer.datasets.importing.import_export import import_export  # noqa: PLC0415

        return import_export(args)
    args = check_parser().parse_args(arguments[arguments[0] == "check" :])
    from trainer.inspect_data import check  # noqa: PLC0415

    return check(args)


def import_parser() -> argparse.ArgumentParser:
    """Options and arguments of ``import``."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train data import",
        description="Make a dataset from the export of an annotation tool.",
        epilog=IMPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("export", type=Path, metavar="EXPORT", help="the export: a folder, a file or an archive")
    parser.add_argument("--from", dest="tool", required=True, choices=TOOLS, help="annotation tool")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the dataset; new or empty")
    parser.add_argument(
        "--split",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="share of the images for val, 0 to below 1, where the export has no val split (default: 0.2)",
    )
    parser.add_argument(
        "--by",
        choices=("auto", "sequence", "class"),
        default="auto",
        help="keep sequences whole, or balance the classes (default: sequences if the names show several)",
    )
    parser.add_argument(
        "--unlabelled",
        choices=UNLABELLED,
        default=UNLABELLED[0],
        help="meaning of unlabelled pixels: a class of their own, or ignored (default: background)",
    )
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="classes to keep, separated by commas; others are unlabelled"
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", default=[], metavar="FOLDER", help="folders of images that the export lacks"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="classes of masks: classes.json, class_dict.csv, labelmap.txt, ..."
    )
    parser.add_argument("--no-exif", action="store_true", help="shapes were drawn on photos not turned by EXIF")
    parser.add_argument("--incomplete", action="store_true", help="leave out missing and broken files, and name them")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="threads (default: one per CPU)")
    return parser


def check_parser() -> argparse.ArgumentParser:
    """Options and arguments of ``check``."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train data check",
        description="Report sizes, class shares, broken files and faults of a dataset, and write a contact sheet.",
        epilog=CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dataset", nargs="?", metavar="KIND", help="kind of dataset, e.g. camvid (default: detected from the folder)"
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("--split", nargs="+", metavar="S", help="splits to read (default: all that exist)")
    parser.add_argument(
        "--output", type=Path, default=Path(SHEET_NAME), help=f"contact sheet, or its folder (default: {SHEET_NAME})"
    )
    parser.add_argument("--samples", type=positive, default=12, help="images on the contact sheet (default: 12)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report to this file")
    parser.add_argument(
        "--workers", type=positive, default=os.cpu_count() or 1, help="threads that read (default: one per CPU)"
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to below 1")
    return value
