"""``ecenet-evaluate``: mIoU, accuracy and IoU per class, for checkpoints and ONNX models by the same ruler."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model_export.manifest import GRAPH_NAME, ClassInfo, ManifestError, read_manifest, write_manifest
from trainer.checkpoint import CheckpointError, load_model_and_entries
from trainer.datasets import open_dataset
from trainer.engine import Predictor, evaluate, image_predictor, torch_predictor
from trainer.metrics import Scores
from trainer.model.ecenet import ECENet

EPILOG = """example:
  ecenet-evaluate runs/camvid/best.pt --data data/camvid
  ecenet-evaluate models/ecenet-lite0-camvid --data data/camvid --json scores.json
"""


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    try:
        dataset = open_dataset(args.dataset, args.data, args.split)
        predict, num_classes = open_predictor(args.model)
        if num_classes != len(dataset.classes):
            raise ValueError(f"{args.model} has {num_classes} classes, {dataset.name} has {len(dataset.classes)}")
        scores = evaluate(predict, dataset, progress=_progress)
        print(report(scores, dataset.classes))  # noqa: T201
        if args.json:
            args.json.write_text(json.dumps(as_dict(scores, dataset.classes), indent=2) + "\n", encoding="utf-8")
        if args.update_manifest:
            update_manifest(args.model, args.split, scores)
    except (ValueError, OSError) as error:
        print(f"ecenet-evaluate: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def open_predictor(path: Path) -> tuple[Predictor, int]:
    """A predictor and its number of classes, from a model directory, an ONNX file or a checkpoint.

    Raises:
        CheckpointError: A checkpoint of a network that is not whole, or that does not tell its input size.
        ManifestError: A model directory that cannot be used.
    """
    if path.is_dir():
        read_manifest(path)
        return onnx_predictor(path / GRAPH_NAME)
    if path.suffix == ".onnx":
        return onnx_predictor(path)
    model, entries = load_model_and_entries(path)
    size = entries.get("input_size")
    if not isinstance(model, ECENet) or size is None:
        raise CheckpointError(f"{path} holds no whole network with an input size; export it with --size and name that")
    return torch_predictor(model, (size[0], size[1])), model.config.num_classes


def onnx_predictor(graph: Path) -> tuple[Predictor, int]:
    """An exported graph as a predictor, through ONNX Runtime on the CPU, and its number of classes."""
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    height, width = session.get_inputs()[0].shape[1:3]

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = session.run(None, {name: images})
        return np.asarray(logits)

    return image_predictor(infer, (height, width)), int(session.get_outputs()[0].shape[1])


def report(scores: Scores, classes: Iterable[ClassInfo]) -> str:
    """The scores as a table, in percent."""
    lines = [f"{info.name:<16}{100 * iou:6.2f}" for info, iou in zip(classes, scores.class_iou, strict=True)]
    means = {"mIoU": scores.miou, "aAcc": scores.accuracy, "mAcc": scores.mean_accuracy}
    return "\n".join([*lines, *(f"{name:<16}{100 * value:6.2f}" for name, value in means.items())])


def as_dict(scores: Scores, classes: Iterable[ClassInfo]) -> dict[str, Any]:
    """The scores for JSON, each 0..1."""
    class_iou = {info.name: float(iou) for info, iou in zip(classes, scores.class_iou, strict=True)}
    return {
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "class_iou": class_iou,
    }


def update_manifest(directory: Path, split: str, scores: Scores) -> None:
    """Write the scores into the manifest of a model directory."""
    if not directory.is_dir():
        raise ManifestError(f"{directory} is no model directory; --update-manifest needs one")
    manifest = read_manifest(directory)
    figures = {
        f"{split}_miou": round(scores.miou, 4),
        f"{split}_accuracy": round(scores.accuracy, 4),
        f"{split}_mean_accuracy": round(scores.mean_accuracy, 4),
    }
    write_manifest(directory, replace(manifest, metrics={**manifest.metrics, **figures}))


def _progress(indices: range) -> Iterable[int]:
    return tqdm(indices, unit="image", mininterval=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-evaluate",
        description="mIoU, accuracy and IoU per class of a model on a labelled dataset.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a checkpoint, an ONNX file or a model directory")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--dataset", default="camvid", help="kind of dataset (default: camvid)")
    parser.add_argument("--split", default="val", help="split of the dataset (default: val)")
    parser.add_argument("--json", type=Path, help="also write the scores, 0..1, to this file")
    parser.add_argument("--update-manifest", action="store_true", help="write the scores into the model's manifest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
