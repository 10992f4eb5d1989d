"""Forms of an engine's output: bytes of a slot, the loss of labels and of mIoU, and the time of a label map.

    python -m benchmarks.feed.outputs --data CAMVID

Float32 logits of the bundled model on CamVid's val split are the reference. Logits are rounded to half precision, or
reduced to labels at stride 4, as an engine could give them. Times are medians over the images.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from service.engines.create import create_engine
from service.engines.options import EngineOptions
from service.imaging.resize import resize_to_input
from service.imaging.segmentation import labels_of
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import read_manifest
from trainer.datasets.registry import open_dataset
from trainer.metrics import Counts

Logits = NDArray[np.float32]
Size = tuple[int, int]

# What an engine gives for an image, and the label map of a size that a worker makes of it.
FORMS: dict[
    str, tuple[Callable[[Logits], NDArray[np.generic]], Callable[[NDArray[np.generic], Size], NDArray[np.uint8]]]
] = {
    "float32 logits": (
        lambda logits: logits,
        lambda output, size: labels_of(output.astype(np.float32, copy=False), size),
    ),
    "float16 logits": (
        lambda logits: logits.astype(np.float16),
        lambda output, size: labels_of(output.astype(np.float16, copy=False), size),
    ),
    "uint8 labels at stride 4": (
        lambda logits: logits.argmax(0).astype(np.uint8),
        lambda output, size: labels_of(output.astype(np.uint8, copy=False), size),
    ),
}


class Form:
    """Sums over the images of one form."""

    def __init__(self, num_classes: int) -> None:
        self.counts = Counts.zeros(num_classes)
        self.equal = self.pixels = self.num_bytes = 0
        self.seconds: list[float] = []

    def row(self, name: str, reference: Form) -> str:
        """One line of the table."""
        lost = 100 * (reference.counts.scores().miou - self.counts.scores().miou)
        milliseconds = 1e3 * statistics.median(self.seconds)
        share = 100 * self.equal / self.pixels
        return f"| {name} | {self.num_bytes:,} | {share:.4f}% | {lost:.3f} | {milliseconds:.2f} |"


def measure(data: Path, threads: int) -> dict[str, Form]:
    """Run the bundled model on val."""
    manifest = read_manifest(bundled_model_dir())
    options = EngineOptions(engine="onnxruntime", precision="fp32", num_threads=threads, max_batch_size=1)
    engine = create_engine(bundled_model_dir(), manifest, options)
    forms = {name: Form(manifest.num_classes) for name in FORMS}
    dataset = open_dataset("camvid", data, "val")
    for index in tqdm(range(len(dataset)), unit="image"):
        sample = dataset[index]
        size = (sample.labels.shape[0], sample.labels.shape[1])
        logits = engine.infer(resize_to_input(sample.image, engine.graph.input_size)[None])[0].astype(
            np.float32, copy=False
        )
        exact = labels_of(logits, size)
        for name, form in forms.items():
            give, label = FORMS[name]
            output = give(logits)
            started = time.perf_counter()
            labels = label(output, size)
            form.seconds.append(time.perf_counter() - started)
            form.num_bytes = output.nbytes
            form.equal += int((labels == exact).sum())
            form.pixels += labels.size
            form.counts.update(sample.labels, labels)
    return forms


def main(arguments: list[str] | None = None) -> int:
    """Print a row per form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--threads", type=int, default=1, help="of the engine; default: %(default)s")
    args = parser.parse_args(arguments)
    forms = measure(args.data, args.threads)
    print("| output | bytes an image | labels equal | mIoU lost, points | label map, ms |")
    print("|---|--:|--:|--:|--:|")
    for name, form in forms.items():
        print(form.row(name, forms["float32 logits"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
