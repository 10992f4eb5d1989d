"""Inspection of a model directory, an ONNX file or an engine, without running or deserialising any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from model_export.onnx_flops import FlopsError, count_flops
from model_export.source_checkpoint import checkpoint_fault
from service.engines.tensorrt.attentions import AttentionCount, count_attentions
from service.model_directory.engine_store import (
    ENGINE_FOLDER,
    ENGINE_SUFFIX,
    EngineInfo,
    EngineStoreError,
    find_built,
    named_engine,
)
from service.model_directory.golden import read_golden
from service.model_directory.machine import MachineError, detect_machine
from service.model_directory.manifest import GraphInfo, Manifest, file_sha256, read_manifest
from service.model_directory.sizes import Size

_QUANTIZERS = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_PRECISIONS: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}


class InspectionError(ValueError):
    """A file that cannot be inspected; the text names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or an output: its name, its element type, and its shape with names for the free axes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(map(str, self.shape))}) {self.dtype}"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Facts of an ONNX file.

    Attributes:
        path: The file.
        inputs: Its inputs, without weights.
        outputs: Its outputs.
        precision: ``int8`` if it quantises, else the type of most of its weights: fp32, fp16, bf16, fp64; empty if it
            has none.
        opset: Version of ONNX's operators.
        operators: Nodes by operator.
        attentions: Its attentions by form.
        num_bytes: Size of the file with its external data.
        flops: Operations of one image; None if they cannot be counted.
        flops_fault: Why not.
    """

    path: Path
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    precision: str
    opset: int
    operators: Mapping[str, int]
    attentions: AttentionCount
    num_bytes: int
    flops: int | None
    flops_fault: str | None = None


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts of an engine by its manifest, and the reason why it may not be loaded here.

    Attributes:
        info: The manifest.
        num_bytes: Size of the engine.
        signature_fault: Why file and manifest are not as this installation wrote them, or None.
        machine_fault: Why this machine cannot run it, or None.
    """

    info: EngineInfo
    num_bytes: int
    signature_fault: str | None
    machine_fault: str | None

    @property
    def obstacle(self) -> str | None:
        """The reason why the service would not load it here, or None."""
        return "; ".join(fault for fault in (self.machine_fault, self.signature_fault) if fault) or None


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """Facts of a model directory.

    Attributes:
        directory: The folder.
        manifest: Its manifest.
        checkpoint_fault: Why the checkpoint is missing or has changed since the export, or None.
        golden: Golden images by input size.
        graphs: Its graphs, in the manifest's order.
        engines: Its engines that have a manifest.
        engine_faults: A sentence for each engine without one.
    """

    directory: Path
    manifest: Manifest
    checkpoint_fault: str | None
    golden: Mapping[Size, int]
    graphs: tuple[GraphFacts, ...]
    engines: tuple[EngineFacts, ...]
    engine_faults: tuple[str, ...]

    def graph_of(self, engine: EngineInfo) -> GraphInfo | None:
        """The graph that an engine was built from, if the directory still has it."""
        return next((graph for graph in self.manifest.graphs if graph.sha256 == engine.key.graph_sha256), None)


def inspect_directory(directory: Path) -> DirectoryFacts:
    """Inspect a model directory.

    Raises:
        ManifestError: It has no manifest, or a file is not the one that the manifest states.
        GoldenError: The golden inputs lack an input size.
        InspectionError: A graph cannot be read.
    """
    manifest = read_manifest(directory)
    sizes = {graph.input_size for graph in manifest.graphs} if manifest.golden else set()
    engines, faults = _engines(directory / ENGINE_FOLDER)
    return DirectoryFacts(
        directory=directory,
        manifest=manifest,
        checkpoint_fault=checkpoint_fault(directory, manifest),
        golden={size: len(read_golden(directory, manifest, size).images) for size in sorted(sizes)},
        graphs=tuple(inspect_graph(directory / graph.file) for graph in manifest.graphs),
        engines=engines,
        engine_faults=faults,
    )


def inspect_graph(path: Path) -> GraphFacts:
    """Inspect an ONNX file; files with external weights need only exist.

    Raises:
        InspectionError: No ONNX, a part of one, or external data that is missing or too short.
    """
    model = _load(path)
    external = _check_external(path, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    try:
        flops, fault = count_flops(model), None
    except FlopsError as error:
        flops, fault = None, str(error)
    return GraphFacts(
        path=path,
        inputs=tuple(_value(value) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_value(value) for value in model.graph.output),
        precision=_precision(model),
        opset=_opset(model),
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        attentions=count_attentions(model),
        num_bytes=path.stat().st_size + sum(file.stat().st_size for file in external),
        flops=flops,
        flops_fault=fault,
    )


def inspect_engine(path: Path) -> EngineFacts:
    """Inspect an engine by the manifest beside it; the engine itself is read for its SHA-256 only.

    Raises:
        EngineStoreError: No such file, or no manifest beside it.
    """
    info = named_engine(path)
    return EngineFacts(info, path.stat().st_size, _signature_fault(info), _machine_fault(info))


def _engines(folder: Path) -> tuple[tuple[EngineFacts, ...], tuple[str, ...]]:
    found, faults = [], []
    for path in sorted(folder.glob(f"*{ENGINE_SUFFIX}")):
        try:
            found.append(inspect_engine(path))
        except EngineStoreError as error:
            faults.append(str(error))
    return tuple(found), tuple(faults)


def _signature_fault(info: EngineInfo) -> str | None:
    if file_sha256(info.path) != info.sha256:
        return "the file was changed after the build; build it again with ecenet-export tensorrt DIR --force"
    try:
        built_here = find_built(info.path.parent, info.key)
    except EngineStoreError as error:
        return str(error)
    if built_here is None or built_here.path != info.path:
        return "not built by this installation, or its manifest was changed"
    return None


def _machine_fault(info: EngineInfo) -> str | None:
    try:
        return info.key.machine.misfit(detect_machine(info.key.machine.runtime))
    except MachineError as error:
        return str(error)


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InspectionError(f"{path} does not exist, expected a model directory, an ONNX file or an engine")
    try:
        model = onnx.load(path, load_external_data=False, format="protobuf")
    except DecodeError as error:
        raise InspectionError(f"{path} is not an ONNX file, or a part of one ({error}); export it again") from error
    # Bytes that are not ONNX, or no bytes at all, may be read as a model without contents.
    if not (model.graph.node and model.graph.input and model.graph.output and _opset(model)):
        raise InspectionError(f"{path} is not an ONNX file, or a part of one (it has no graph); export it again")
    return model


def _check_external(path: Path, model: onnx.ModelProto) -> set[Path]:
    """The files that hold weights of a graph, once they exist and are long enough."""
    files = set()
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        try:
            place = ExternalDataInfo(tensor)
        except ValueError as error:
            raise InspectionError(f"{path} does not tell where the weights {tensor.name} are: {error}") from error
        if Path(place.location).is_absolute() or ".." in Path(place.location).parts:
            raise InspectionError(f"{path} keeps weights in {place.location}, which is not below its folder")
        file = path.parent / place.location
        if not file.is_file():
            raise InspectionError(f"{path} keeps weights in {file}, which does not exist; copy it beside the graph")
        end, size = (place.offset or 0) + (place.length or 0), file.stat().st_size
        if size < end:
            raise InspectionError(f"{file} has {size} bytes, {path} needs {end}: it was cut off; copy it again")
        files.add(file)
    return files


def _opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators; 0 if the model does not state it."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    dims = (dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
    return Value(value.name, _dtype_name(tensor.elem_type), tuple(dims))


def _dtype_name(number: int) -> str:
    """ONNX's number of a type as NumPy's name."""
    name = onnx.TensorProto.DataType.Name(number).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _precision(model: onnx.ModelProto) -> str:
    if any(node.op_type in _QUANTIZERS for node in model.graph.node):
        return "fp8" if any(tensor.data_type == onnx.TensorProto.FLOAT8E4M3FN for tensor in _weights(model)) else "int8"
    elements = Counter[str]()
    for tensor in _weights(model):
        if tensor.data_type in _PRECISIONS:
            elements[_PRECISIONS[tensor.data_type]] += prod(tensor.dims)
    return elements.most_common(1)[0][0] if elements else ""


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (
            attribute.t for attribute in node.attribute if node.op_type == "Constant" and attribute.HasField("t")
        )
