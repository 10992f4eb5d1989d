"""Export of a trained ECENet to the model directory that the service reads."""

from __future__ import annotations

import os

# As in ``service``: ONNX Runtime is imported here before anything of the service may be.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
