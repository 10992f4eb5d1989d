"""FP8 graphs for a model directory: calibrated on the float32 graph, made of the fp16 graph, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from model_export.fp8_graph import to_fp8, wide_inputs
from model_export.images import Photo, photos_in
from model_export.parity import labels_of_logits
from model_export.quantize import bounds_of, golden_share, publish, split, spread
from model_export.quantize_settings import QuantizeSettings
from model_export.sensitivity import QuantizationError
from model_export.staging import staging_folder
from service.engines.cpus import available_cpus
from service.engines.onnxruntime_engine import session_options
from service.imaging.resize import resize_to_input
from service.model_directory.golden import Golden, read_golden
from service.model_directory.manifest import GraphInfo, Manifest, file_sha256, read_manifest
from service.model_directory.sizes import format_size

Images = Sequence[NDArray[np.uint8]]
Report = Callable[[str], None]


class _Sources(NamedTuple):
    """The float32 and the fp16 graph of a size, and its golden inputs, if any."""

    exact: GraphInfo
    half: GraphInfo
    golden: Golden | None


@dataclass(frozen=True, slots=True)
class Fp8Graph:
    """An FP8 graph, and its agreement with float32.

    Attributes:
        info: The graph.
        equal_labels: Share, 0..1, of the labels of the float32 graph on the images held out.
        worst_image: Least share of a held-out image, or of a golden one against PyTorch.
        images: How many images were calibrated on, and how many held out.
    """

    info: GraphInfo
    equal_labels: float
    worst_image: float
    images: tuple[int, int]


def quantize_fp8(
    directory: Path, calibration: Path, settings: QuantizeSettings, report: Report = lambda _: None
) -> list[Fp8Graph]:
    """Add an FP8 graph for each size that has a float32 and an fp16 graph.

    Args:
        directory: A model directory.
        calibration: Folder of images like those that the model will see.
        settings: See there; no layer is left out to reach ``min_equal_labels``.
        report: Called with a line on each step.

    Raises:
        QuantizationError: No such size, an FP8 graph that is there already, too few images, or too few equal labels.
            As with every error, the directory stays as it was.
        ManifestError: The directory is no model directory.
    """
    manifest = read_manifest(directory)
    sources = _sources(directory, manifest, settings)
    photos = spread(photos_in(calibration), settings.count)
    with staging_folder(directory) as folder:
        graphs = [_fp8_graph(directory, each, folder, photos, report) for each in sources]
        for graph in graphs:
            if graph.equal_labels < settings.min_equal_labels:
                raise QuantizationError(
                    f"{graph.info.file} has {graph.equal_labels:.3%} of the labels, fewer than "
                    f"{settings.min_equal_labels:.3%} (--min-equal-labels)"
                )
        publish(directory, manifest, folder, [graph.info for graph in graphs])
    return graphs


def _fp8_graph(directory: Path, sources: _Sources, folder: Path, photos: Sequence[Photo], report: Report) -> Fp8Graph:
    exact, half, golden = sources
    calibrated, held_out = split([resize_to_input(photo.read(), exact.input_size) for photo in photos])
    info = replace(half, file=f"model-{format_size(half.input_size)}-fp8.onnx", precision="fp8")
    report(f"{info.file}: calibrating on {len(calibrated)} images")
    model = onnx.load(directory / half.file)
    peaks = _peaks(directory / exact.file, wide_inputs(model), calibrated)
    onnx.save(to_fp8(model, peaks), folder / info.file)
    report(f"{info.file}: measuring on {len(held_out)} images")
    session = _session(folder / info.file, as_it_stands=True)
    expected = _labels(_session(directory / exact.file), exact, held_out)
    equal = (_labels(session, info, held_out) == expected).mean((1, 2))
    worst = float(equal.min())
    if golden is not None:
        worst = min(worst, golden_share(golden, info, lambda images: _run(session, images)[0]))
    info = replace(info, sha256=file_sha256(folder / info.file), bounds=bounds_of(worst))
    return Fp8Graph(info, float(equal.mean()), worst, (len(calibrated), len(held_out)))


def _peaks(path: Path, names: Sequence[str], images: Images) -> dict[str, float]:
    """The largest absolute value of each activation over all images; FP8 is as fine beside a large range."""
    model = onnx.load(path)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(available_cpus()))
    peaks = dict.fromkeys(names, 0.0)
    for image in images:
        for name, values in zip(names, _run(session, image[None], names), strict=True):
            peaks[name] = max(peaks[name], float(np.abs(values).max()))
    return peaks


def _session(path: Path, *, as_it_stands: bool = False) -> onnxruntime.InferenceSession:
    """Load a graph; ``as_it_stands`` without fused nodes: ONNX Runtime's optimiser changes what FP8 graphs compute."""
    options = session_options(available_cpus())
    if as_it_stands:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options)


def _labels(session: onnxruntime.InferenceSession, info: GraphInfo, images: Images) -> NDArray[np.uint8]:
    """Labels (n, h, w) of images (H, W, 3) uint8, one image at a time."""
    rows = np.concatenate([_run(session, image[None])[0] for image in images])
    return rows if info.output == "labels" else labels_of_logits(rows, info)


def _run(
    session: onnxruntime.InferenceSession, images: NDArray[np.uint8], names: Sequence[str] | None = None
) -> Sequence[Any]:
    outputs: Sequence[Any] = session.run(names, {session.get_inputs()[0].name: images})
    return outputs


def _sources(directory: Path, manifest: Manifest, settings: QuantizeSettings) -> list[_Sources]:
    """The graphs and golden inputs of each size that is to have an FP8 graph.

    Raises:
        QuantizationError: A size lacks one of them, or has an FP8 graph already.
    """
    by_precision = {(graph.input_size, graph.precision): graph for graph in manifest.graphs}
    both = [size for size, precision in by_precision if precision == "fp32" and (size, "fp16") in by_precision]
    sizes = list(dict.fromkeys(settings.sizes or both))
    if not sizes or not set(sizes) <= set(both):
        wanted = ", ".join(map(format_size, sizes)) or "any size"
        raise QuantizationError(
            f"{directory} needs an fp32 and an fp16 graph of {wanted}; it has {manifest.graph_list}: "
            "ecenet-export onnx --precision fp32 --precision fp16 writes both"
        )
    for size in sizes:
        if (there := by_precision.get((size, "fp8"))) is not None and not settings.force:
            raise QuantizationError(f"{directory} has {there.file} already; --force replaces it")
    golden = {size: None if manifest.golden is None else read_golden(directory, manifest, size) for size in sizes}
    return [_Sources(by_precision[size, "fp32"], by_precision[size, "fp16"], golden[size]) for size in sizes]
