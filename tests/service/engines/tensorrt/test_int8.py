"""TensorRT's copy of the bundled INT8 graph keeps the labels: what a GPU's self-check will ask of the engine."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from service.engines.tensorrt.int8 import adapt_int8
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.golden import read_golden
from service.model_directory.manifest import read_manifest


def test_symmetric_steps_stay_within_the_bounds_of_the_bundled_int8_graph() -> None:
    """Computed without fused steps, which round as TensorRT's INT8 kernels do."""
    directory = bundled_model_dir()
    manifest = read_manifest(directory)
    graph = next(each for each in manifest.graphs if each.input_size == (384, 512))
    golden = read_golden(directory, manifest, graph.input_size)
    model = onnx.load(directory / graph.file)
    adapt_int8(model.graph)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (rows,) = session.run(None, {model.graph.input[0].name: golden.images})
    agreement = golden.agreement(np.asarray(rows), graph, range(len(golden.images)))
    assert agreement.fault(graph.bounds) is None
    assert agreement.equal_labels > 0.98
