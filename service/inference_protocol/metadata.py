"""Metadata of the server and of the model."""

from __future__ import annotations

from service.inference_protocol.messages import ModelMetadata, ServerMetadata, TensorMetadata
from service.inference_protocol.signature import TensorInfo, signature_of
from service.model_directory.manifest import GraphInfo, Manifest

SERVER_NAME = "ecenet"
EXTENSIONS = ("binary_tensor_data", "model_repository")
# The protocol's names are of the form <project>_<format>.
_PLATFORMS = {
    "onnxruntime": "onnxruntime_onnx",
    "onnxruntime-cuda": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "tensorrt-rtx": "tensorrt_plan",
}


def server_metadata(version: str) -> ServerMetadata:
    """Metadata of the server of a release."""
    return ServerMetadata(name=SERVER_NAME, version=version, extensions=list(EXTENSIONS))


def model_metadata(manifest: Manifest, graph: GraphInfo, engine_name: str) -> ModelMetadata:
    """Metadata of the model on an engine; the engine's name where the protocol has no platform for it."""
    signature = signature_of(graph, manifest.num_classes)
    return ModelMetadata(
        name=manifest.name,
        versions=[manifest.version],
        platform=_PLATFORMS.get(engine_name, engine_name),
        inputs=[_tensor(info) for info in signature.inputs],
        outputs=[_tensor(info) for info in signature.outputs],
    )


def _tensor(info: TensorInfo) -> TensorMetadata:
    return TensorMetadata(name=info.name, datatype=info.datatype, shape=list(info.shape))
