"""``ecenet-segment``: images, folders of them and videos to results, by a running service or in this process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from service.client.options import API_KEY_VARIABLE, LABEL_STUDIO_VARIABLE, MAX_PORT, TIMEOUT_S, Format

INTERRUPTED = 130
# As many requests may be inside a service.
MAX_CONCURRENCY = 10_000

_EPILOG = """\
The result of street.jpg is DIR/street.jpg.labels.png, or has its format's ending. Existing results are skipped,
so the same command continues where it was stopped; --overwrite makes them again.

examples:
  ecenet-segment photos/ -o labels/
  ecenet-segment a.jpg b.png -o out/ --format overlay --alpha 0.4 --url http://127.0.0.1:8000
  ecenet-segment drive.mp4 -o out/ --format overlay
  ecenet-segment --label-studio http://localhost:8080 --url http://localhost:8000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment what the command line names.

    Returns:
        0 if every result exists, 1 if one is missing, 130 after Ctrl-C.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.label_studio is None and not (args.images and args.output):
        parser.error("IMAGE and -o DIR are required, or --label-studio URL")
    try:
        from service.client.commands import segment, serve_label_studio  # noqa: PLC0415  --help needs none of it

        return segment(args) if args.label_studio is None else serve_label_studio(args)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; run the same command again to continue\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-segment",
        description="Segment images: files, or folders with all images below them; and videos.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "images", type=Path, nargs="*", metavar="IMAGE", help="image file, video file, or folder of images"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument(
        "--concurrency", type=_concurrency, default=4, metavar="N", help="images in flight at once. Default: 4."
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    _add_parameters(parser.add_argument_group("result, as in POST /segment"))
    _add_service(parser.add_argument_group("service"))
    _add_label_studio(parser.add_argument_group("drafts for Label Studio, in place of images"))
    return parser


def _add_parameters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--format", choices=get_args(Format), default="labels", help="Default: labels.")
    group.add_argument("--model", metavar="NAME", help="name of the model. Default: the service's.")
    group.add_argument("--palette", choices=["classes", "none"], help="for labels: colours of the classes, or grey")
    group.add_argument("--alpha", type=float, metavar="0..1", help="for overlay: weight of the colours")
    group.add_argument("--classes", metavar="NAMES", help="keep only these classes: names or ids, separated by commas")
    group.add_argument(
        "--size", choices=["input", "model"], help="size of the result: the image's or the model input's"
    )
    group.add_argument("--mode", choices=["resize", "tile"], help="tile: overlapping windows for large images")
    group.add_argument("--background", metavar="COLOR", help="colour behind transparent pixels")
    group.add_argument("--rle", action="store_const", const=True, help="for json: add the masks as run lengths")
    group.add_argument("--simplify", type=float, metavar="PIXELS", help="drop corners of polygons within this distance")
    group.add_argument("--name", help="for labelme, coco, labelstudio: the image's path or URL in the tool")


def _add_service(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--url", help="running service; without it the model runs in this process")
    group.add_argument(
        "--model-dir", type=Path, metavar="DIR", help="model, or folder of models, to run in this process"
    )
    group.add_argument("--retries", type=_count, default=5, metavar="N", help="retries of each image. Default: 5.")
    group.add_argument(
        "--timeout-s",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="S",
        help=f"seconds to wait for a connection, and for the next byte of an answer. Default: {TIMEOUT_S:g}.",
    )
    group.add_argument("--request-timeout-ms", type=_positive, metavar="MS", help="time limit for the service")
    group.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file with the API key; else {API_KEY_VARIABLE}"
    )


def _add_label_studio(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-studio",
        metavar="URL",
        help=f"serve drafts to this Label Studio, with the token in {LABEL_STUDIO_VARIABLE}",
    )
    group.add_argument(
        "--listen",
        type=_address,
        default=("127.0.0.1", 9090),
        metavar="HOST:PORT",
        help="address that Label Studio calls. Default: 127.0.0.1:9090.",
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or _count(port) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)


def _concurrency(text: str) -> int:
    value = _positive(text)
    if value > MAX_CONCURRENCY:
        raise argparse.ArgumentTypeError(f"it is {value}, expected at most {MAX_CONCURRENCY}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:  # NaN is not either
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected seconds above 0")
    return value


def _positive(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it is 0, expected 1 or more")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
