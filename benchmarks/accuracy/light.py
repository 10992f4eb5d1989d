"""Accuracy in other light and with another camera: mIoU on a dataset whose images are changed.

    python -m benchmarks.accuracy.light MODEL [MODEL ...] --data DATA/camvid

A model is whatever ``ecenet-evaluate`` takes. The changes are fixed, so that two models see the same pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.accuracy.table import markdown
from service.engines.base import EngineError
from trainer.datasets import SegmentationDataset, open_dataset
from trainer.prediction.evaluation import evaluate
from trainer.prediction.open_model import open_model
from trainer.prediction.predictor import Predictor

Pixels = NDArray[np.uint8]


def _curve(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Pixels], Pixels]:
    """A change of pixel values, 0 to 1."""
    return lambda image: np.rint(255 * change(image / 255).clip(0, 1)).astype(np.uint8)


def _blur(image: Pixels) -> Pixels:
    return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1)))


def _noise(image: Pixels) -> Pixels:
    return np.rint(image + np.random.default_rng(0).normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "as it is": lambda image: image,
    "dusk, gamma 1.8": _curve(lambda x: x**1.8),
    "glare, gamma 0.6": _curve(lambda x: x**0.6),
    "45% of the light": _curve(lambda x: 0.45 * x),
    "red +15%, blue -15%": _curve(lambda x: x * (1.15, 1.0, 0.85)),
    "blurred, sigma 1 pixel": _blur,
    "noise, sigma 12 of 255": _noise,
}


def scores(predict: Predictor, dataset: SegmentationDataset) -> dict[str, float]:
    """mIoU, 0..1, by change."""
    return {
        name: evaluate(lambda image, change=change: predict(change(image)), dataset).scores().miou  # type: ignore[misc]
        for name, change in CHANGES.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    columns: dict[str, dict[str, float]] = {}
    try:
        dataset = open_dataset(args.dataset, args.data, args.split)
        for source in args.models:
            with open_model(source) as model:
                model.check_classes(dataset)
                columns[source] = scores(model.predict, dataset)
    except (ValueError, OSError, EngineError) as error:
        print(f"light: {error}", file=sys.stderr)
        return 1
    rows = [[name, *(f"{100 * column[name]:.2f}" for column in columns.values())] for name in CHANGES]
    print(markdown(["images", *columns], rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="light", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="checkpoints, model directories, ONNX files or URLs")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--dataset", default="camvid", help="kind of dataset (default: camvid)")
    parser.add_argument("--split", default="val", help="split of the dataset (default: val)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
