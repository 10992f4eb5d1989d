"""Semantic segmentation as a service: a model directory in, an HTTP server that answers images in batches out.

One request goes ``http.routes`` -> ``inference.pipeline`` (admit, decode, resize) -> ``inference.image_queue`` ->
``engines`` and back through the pipeline (label map, encode). The queue is a batcher in the same process, or it sends
slots of shared memory to the engine process: ``processes`` starts that, the workers of HTTP, and their supervisor.
``models`` says which version a name means.
"""

from __future__ import annotations

import os

# ONNX Runtime reads it at its own import, whichever module comes first; otherwise it reports its use to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
