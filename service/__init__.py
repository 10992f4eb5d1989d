"""Semantic segmentation as a service: a model directory in, an HTTP server that answers images in batches out.

One request goes ``routes`` -> ``pipeline`` (admit, decode, resize) -> ``batcher`` -> ``engines`` and back through
``pipeline`` (label map, encode). HTTP depends on the pipeline, the pipeline on the batcher, never the other way round.
Each version that serves has its own pipeline, batcher and engine; ``models`` says which one a name means.
"""

from __future__ import annotations

import os

# ONNX Runtime reads it at its own import, whichever module comes first; otherwise it reports its use to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
