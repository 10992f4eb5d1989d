"""``ecenet-evaluate``: the same scores for checkpoints, model directories, ONNX files and running services."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from service.engines.runtimes import ENGINE_NAMES
from service.model_directory.extras import MissingExtraError, needing_extra
from service.model_directory.sizes import Size

EPILOG = """example:
  ecenet-evaluate runs/camvid/best.pt --data data/camvid
  ecenet-evaluate models/ecenet-lite0-camvid --data data/camvid --boundary --json scores.json
  ecenet-evaluate http://127.0.0.1:8000 --data data/camvid
  ecenet-evaluate 'http://127.0.0.1:8000?mode=tile&model=street' --data data/camvid
  ecenet-evaluate released.ckpt --dataset ade20k --data data/ade --mode slide --crop 640 --stride 608 --short-side 640
  ecenet-evaluate runs/camvid/best.pt --data data/camvid --scales 0.75,1.0,1.25 --flip
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = argument_parser().parse_args(arguments)
    try:
        with needing_extra("train"):
            return _run(args)
    except MissingExtraError as error:
        return _failed(error)


def _run(args: argparse.Namespace) -> int:
    from service.engines.base import EngineError  # noqa: PLC0415
    from trainer.scoring import score  # noqa: PLC0415

    try:
        score(args)
    except (ValueError, OSError, EngineError) as error:
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    print(f"ecenet-evaluate: {error}", file=sys.stderr)  # noqa: T201
    return 1


def _size(text: str) -> Size:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give pixels, e.g. 640 or 360x480 (height x width)")
    return int(sides[0]), int(sides[-1])


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(scale) for scale in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of scales, e.g. 0.5,0.75,1.0") from None


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-evaluate",
        description="Measure mIoU, accuracy and IoU per class of a model on a labelled dataset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a checkpoint, a model directory, an ONNX file, or the URL of a running service")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument(
        "--dataset",
        metavar="KIND",
        help="kind of dataset (default: the model's if the folder fits it, else the folder's)",
    )
    parser.add_argument(
        "--class-map",
        metavar="NAME",
        help="score a dataset of other classes, its own mapped to the model's: cityscapes-to-camvid",
    )
    parser.add_argument("--split", default="val", help="split of the dataset (default: val)")
    parser.add_argument("--engine", help=f"runtime of a model directory: {', '.join(ENGINE_NAMES)} (default: auto)")
    parser.add_argument("--device", help="PyTorch's device for a checkpoint (default: cpu)")
    parser.add_argument("--boundary", action="store_true", help="also count boundary IoU")
    parser.add_argument("--json", type=Path, help="also write the scores, 0..1, to this file")
    parser.add_argument("--update-manifest", action="store_true", help="write the scores into the model's manifest")
    _add_mode(parser.add_argument_group("prediction mode; by default the service's: one pass over the whole image"))
    return parser


def _add_mode(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mode", choices=("whole", "slide"), default="whole", help="predict the whole image, or windows of it"
    )
    group.add_argument(
        "--crop", type=_size, help="window in pixels, e.g. 640 or 360x480 (default: 640, or the input size of a graph)"
    )
    group.add_argument(
        "--stride", type=_size, help="pixels from one window to the next (default: 19/20 of the crop, so 608 of 640)"
    )
    group.add_argument(
        "--short-side", type=int, metavar="N", help="resize the short side of the image to N pixels and keep its ratio"
    )
    group.add_argument(
        "--scales", type=_scales, default=(1.0,), help="scales of the image to average, e.g. 0.5,0.75,1.0 (default: 1)"
    )
    group.add_argument("--flip", action="store_true", help="average with the prediction of the mirrored image")


if __name__ == "__main__":
    sys.exit(main())
