"""Inputs with PyTorch's outputs, kept in the model directory, so that every engine can be proven where it runs.

NumPy only: the service reads them before it is ready.
"""

from __future__ import annotations

import io
import math
import tokenize
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from service.model_directory.agreement import Agreement, labels_agreement
from service.model_directory.files import read_bounded
from service.model_directory.manifest import LOGITS_STRIDE, GraphInfo, Manifest
from service.model_directory.sizes import Size, format_size

# The bundled model has 0.8 MB; 16 inputs of 2048x1024 pixels have 100 MB.
MAX_GOLDEN_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 1 << 30
# Values of logits per image that are kept: enough to find an error anywhere, and small for 150 classes too.
_MAX_LOGITS = 1 << 16
# All that NumPy and zipfile raise on broken files.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    RuntimeError,
    BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


class GoldenError(ValueError):
    """Golden inputs that are missing or do not fit; the text names the command that writes them."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Images of one input size, and PyTorch's float32 outputs for them.

    Attributes:
        images: (n, H, W, 3) uint8, RGB.
        labels: By stride, (n, h, w) uint8; always those at stride 4.
        logits: (n, K, h', w') float32: every ``step``-th cell of both axes.
        step: See ``logits``.
    """

    images: NDArray[np.uint8]
    labels: Mapping[int, NDArray[np.uint8]]
    logits: NDArray[np.float32]
    step: int

    def agreement(self, rows: NDArray[np.generic], graph: GraphInfo, indices: Sequence[int]) -> Agreement:
        """Agreement of an engine's rows with PyTorch's for the images of these indices.

        Args:
            rows: What the engine gave for them, logits or labels as ``graph`` says.
            graph: The engine's graph.
            indices: The images of the batch, in its order.

        Raises:
            GoldenError: No labels of the graph's stride are kept.
            ValueError: The rows have another shape.
        """
        chosen = list(indices)
        if graph.output_stride not in self.labels:
            raise GoldenError(f"the golden inputs have no labels at stride {graph.output_stride}; export again")
        expected = self.labels[graph.output_stride][chosen]
        if graph.output == "labels":
            return labels_agreement(expected, rows.astype(np.uint8, casting="no"))
        shape = graph.output_shape(len(chosen), self.logits.shape[1])
        if rows.shape != shape:
            raise ValueError(f"the output has shape {rows.shape}, expected {shape}")
        equal = labels_agreement(expected, rows.argmax(1).astype(np.uint8)).equal_labels
        errors = np.abs(rows[:, :, :: self.step, :: self.step].astype(np.float64) - self.logits[chosen])
        return Agreement(equal, float(errors.max()) if np.isfinite(rows).all() else math.nan)


def make_golden(
    images: NDArray[np.uint8], logits: NDArray[np.float32], labels: Mapping[int, NDArray[np.uint8]]
) -> Golden:
    """Golden inputs from PyTorch's outputs.

    Args:
        images: (n, H, W, 3) uint8.
        logits: (n, K, h, w) float32, at stride 4.
        labels: Labels at further strides, (n, h', w') uint8, by stride.
    """
    cells = logits[0].size
    step = max(1, math.ceil(math.sqrt(cells / _MAX_LOGITS)))
    kept = np.ascontiguousarray(logits[:, :, ::step, ::step], np.float32)
    return Golden(images, {**labels, LOGITS_STRIDE: logits.argmax(1).astype(np.uint8)}, kept, step)


def write_golden(path: Path, golden: Mapping[Size, Golden]) -> None:
    """Write the golden inputs of several input sizes into one file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for size, entry in golden.items():
        prefix = format_size(size)
        arrays |= {f"{prefix}/labels/{stride}": labels for stride, labels in entry.labels.items()}
        arrays |= {
            f"{prefix}/images": entry.images,
            f"{prefix}/logits": entry.logits,
            f"{prefix}/step": np.array(entry.step),
        }
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read_golden(directory: Path, manifest: Manifest, size: Size) -> Golden:
    """The golden inputs of one input size of a model directory.

    Raises:
        GoldenError: The directory has none, or not of this size.
    """
    if manifest.golden is None:
        raise GoldenError(f"{directory} has no golden inputs; export the checkpoint again with ecenet-export onnx")
    prefix = format_size(size)
    path = directory / manifest.golden.file
    try:
        content = io.BytesIO(read_bounded(path, MAX_GOLDEN_BYTES))
        _check_unpacked(content)
        with np.load(content, allow_pickle=False) as arrays:
            strides = [int(name.rpartition("/")[2]) for name in arrays.files if name.startswith(f"{prefix}/labels/")]
            golden = Golden(
                images=arrays[f"{prefix}/images"],
                labels={stride: arrays[f"{prefix}/labels/{stride}"] for stride in strides},
                logits=arrays[f"{prefix}/logits"],
                step=int(arrays[f"{prefix}/step"]),
            )
        _check_shapes(golden, size)
        return golden
    except _BROKEN as error:
        raise GoldenError(f"{path} has no golden inputs of {prefix}: {error}; export the checkpoint again") from error


def _check_shapes(golden: Golden, size: Size) -> None:
    """Raises ``ValueError`` if an array is not as ``Golden`` describes it."""
    images, logits = golden.images, golden.logits
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size, 3) or not len(images):
        raise ValueError(f"its images are {images.dtype} {images.shape}, expected uint8 (n, {size[0]}, {size[1]}, 3)")
    if logits.dtype != np.float32 or logits.ndim != 4 or len(logits) != len(images):
        raise ValueError(f"its logits are {logits.dtype} {logits.shape}, expected float32 ({len(images)}, K, h, w)")
    if golden.step < 1:
        raise ValueError(f"its step is {golden.step}, expected 1 or more")
    for stride, labels in golden.labels.items():
        if labels.dtype != np.uint8 or labels.ndim != 3 or len(labels) != len(images):
            found = f"{labels.dtype} {labels.shape}"
            raise ValueError(f"its labels at stride {stride} are {found}, expected uint8 ({len(images)}, h, w)")


def _check_unpacked(content: io.BytesIO) -> None:
    """Raises ``ValueError`` if the arrays of an archive would take more than ``MAX_UNPACKED_BYTES``."""
    with ZipFile(content) as archive:
        num_bytes = sum(member.file_size for member in archive.infolist())
    content.seek(0)
    if num_bytes > MAX_UNPACKED_BYTES:
        raise ValueError(f"its arrays have {num_bytes} bytes, at most {MAX_UNPACKED_BYTES} are accepted")
