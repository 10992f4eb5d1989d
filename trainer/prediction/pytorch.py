"""Prediction by PyTorch: a network in memory, or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model_directory.sizes import Size
from trainer.checkpoint import CheckpointError, class_names
from trainer.model.ecenet import ECENet, ModelConfig
from trainer.prediction.mode import PredictionMode
from trainer.prediction.model import ModelError, OpenModel, stated_names
from trainer.prediction.predictor import Network, network_predictor
from trainer.prediction.sliding_window import Infer
from trainer.weights.network import load_model_and_entries


def normalise(images: Tensor, config: ModelConfig) -> Tensor:
    """Images (B, H, W, 3) uint8 to the model's input (B, 3, H, W) float32, in the channels-last layout."""
    mean, std = (torch.tensor(values, device=images.device) for values in (config.mean, config.std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def pytorch_infer(model: ECENet) -> Infer:
    """A network in eval mode as ``Infer``, on the device where its parameters are; images may have any size."""

    @torch.inference_mode()
    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        device = next(model.parameters()).device
        logits: Any = model(normalise(torch.from_numpy(np.array(images)).to(device), model.config))
        return cast(NDArray[np.float32], logits.float().cpu().numpy())

    return infer


def pytorch_network(model: ECENet, input_size: Size | None) -> Network:
    """A network in eval mode, for ``network_predictor``."""
    return Network(pytorch_infer(model), input_size)


@contextmanager
def open_checkpoint(path: Path, mode: PredictionMode, device: str) -> Iterator[OpenModel]:
    """Open any file of a whole network, on a device of PyTorch's."""
    model, entries = load_model_and_entries(path)
    if not isinstance(model, ECENet):
        raise CheckpointError(f"{path} holds a part of a network; only a whole one can be evaluated")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    size, names = entries.get("input_size"), class_names(entries)
    names = None if names is None else stated_names(names)
    network = pytorch_network(model, None if size is None else (int(size[0]), int(size[1])))
    yield OpenModel(network_predictor(network, mode), model.config.num_classes, names, entries.get("dataset"))
