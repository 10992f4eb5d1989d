"""The packages that the tests of this folder need on the GPU that is here, as lines of a requirements file.

    python3 tests/gpu/packages.py CAPABILITY...

``make gpu-test`` installs them. Standard library only: this runs before anything is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

# What TensorRT-RTX 1.7 builds for. A data-centre GPU of another generation runs TensorRT alone.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def requirements(capabilities: Sequence[str]) -> list[str]:
    """Lines for pip, run in the root of the checkout.

    Args:
        capabilities: Compute capability of each GPU, the first of which runs the engines, e.g. ``["9.0"]``.

    Raises:
        ValueError: There is no GPU, or one that CUDA 13 does not support.
    """
    if not capabilities:
        raise ValueError("nvidia-smi lists no GPU; the tests of tests/gpu need one")
    if float(capabilities[0]) < 7.5:
        raise ValueError(f"the GPU has compute capability {capabilities[0]}, CUDA 13 needs 7.5 or higher")
    # The extra ``rtx`` would bring onnxruntime, whose files overwrite those of onnxruntime-gpu.
    rtx = ["tensorrt-rtx-cu13>=1.7.1"] if capabilities[0] in RTX_CAPABILITIES else []
    return ["-e .[gpu-test]", *rtx]


if __name__ == "__main__":
    try:
        print(*requirements(sys.argv[1:]), sep="\n")  # noqa: T201
    except ValueError as error:
        sys.exit(str(error))
