"""The one place that imports timm."""

from __future__ import annotations

from types import ModuleType

import torch


def import_timm() -> ModuleType:
    """Import timm, also beside a torchvision whose compiled operators do not fit the installed PyTorch.

    timm imports torchvision for parts that are not used here. PyPI's torchvision is built for CUDA; beside a CPU build
    of PyTorch its operators do not load, and it then fails to describe two of them. Their schemas make the import work.
    """
    try:
        import timm  # noqa: PLC0415
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare_torchvision_operators()
        import timm  # noqa: PLC0415
    return timm


def _declare_torchvision_operators() -> None:
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
