"""Exported graphs against PyTorch: the same images through both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from model_export.exportable import INPUT_NAME, Exportable
from service.imaging.label_map import label_map
from service.model_directory.agreement import Agreement, labels_agreement, logits_agreement, worst
from service.model_directory.manifest import LOGITS_STRIDE, GraphInfo


def pytorch_logits(exportable: Exportable, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """PyTorch's logits (n, K, h, w) float32 of images (H, W, 3) uint8, one by one."""
    with torch.inference_mode():
        return np.concatenate([exportable(torch.from_numpy(np.array(image[None]))).numpy() for image in images])


def labels_of_logits(logits: NDArray[np.float32], graph: GraphInfo) -> NDArray[np.uint8]:
    """Labels (n, h', w') uint8 of logits (n, K, h, w), at the stride of a graph."""
    if graph.output_stride == LOGITS_STRIDE:
        cells: NDArray[np.uint8] = logits.argmax(1).astype(np.uint8)
        return cells
    return np.stack([label_map(image, graph.output_size) for image in logits])


def graph_agreement(
    path: Path, graph: GraphInfo, images: Sequence[NDArray[np.uint8]], logits: NDArray[np.float32]
) -> Agreement:
    """ONNX Runtime on the CPU against PyTorch's logits of these images: one by one, then the first two as a batch."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # Swin's constants are too large to fold, which it would log one by one
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    batches = [[index] for index in range(len(images))] + ([[0, 1]] if len(images) > 1 else [])
    agreements = []
    for batch in batches:
        (rows,) = session.run(None, {INPUT_NAME: np.stack([images[index] for index in batch])})
        if graph.output == "logits":
            agreements.append(logits_agreement(logits[batch], rows))
        else:
            agreements.append(labels_agreement(labels_of_logits(logits[batch], graph), rows))
    return worst(agreements)
