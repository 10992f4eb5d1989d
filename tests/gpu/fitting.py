"""Choice of the tests marked ``gpu`` that fit the GPUs of a machine."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.gpu.packages import RTX_CAPABILITIES


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs that CUDA shows: how many, and the compute capability of the first, e.g. ``9.0``."""

    count: int
    capability: str


def misfit(gpus: Gpus, *marks: pytest.Mark) -> str | None:
    """The reason why these GPUs cannot run a test, or None.

    Args:
        gpus: What is there, one GPU at least.
        marks: The test's ``gpu`` marks: the runtime as an argument, the number of GPUs as ``count``.
    """
    for mark in marks:
        if "tensorrt-rtx" in mark.args and gpus.capability not in RTX_CAPABILITIES:
            return f"TensorRT-RTX does not build for compute capability {gpus.capability}"
        if (needed := mark.kwargs.get("count", 1)) > gpus.count:
            return f"it needs {needed} GPUs, there are {gpus.count}"
    return None
