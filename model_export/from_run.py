"""From a training run to a model directory: its best checkpoint in every precision, with the images of its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model_export.onnx_export import GraphForms, GraphReport, ModelFacts, export_onnx
from model_export.quantize import QuantizedGraph, quantize
from model_export.sensitivity import QuantizationError
from trainer.checkpoint import CheckpointError, class_names, read_entries
from trainer.datasets import DatasetError, choose_dataset, open_dataset, splits_in
from trainer.prediction.model import check_classes
from trainer.run_folder import BEST, data_of


@dataclass(frozen=True, slots=True)
class RunSource:
    """A training run and its data.

    Attributes:
        checkpoint: Its best checkpoint.
        data: Folder of its dataset.
        kind: Kind of the dataset.
        labelled_split: The split to verify on: val, or train where there is none.
    """

    checkpoint: Path
    data: Path
    kind: str
    labelled_split: str


@dataclass(frozen=True, slots=True)
class Exported:
    """The graphs of a model directory.

    Attributes:
        graphs: In fp32 and fp16.
        int8: In INT8.
        int8_fault: Why there is none in INT8, or None.
    """

    graphs: list[GraphReport]
    int8: list[QuantizedGraph]
    int8_fault: str | None


def find_run(run: Path, data: Path | None = None) -> RunSource:
    """Find the checkpoint and the data of a run.

    Args:
        run: Folder of a run, or a checkpoint.
        data: Folder of the dataset; the one that the run was trained on if None.

    Raises:
        CheckpointError: There is no checkpoint.
        DatasetError: The data is not known, or not there.
        ModelError: The data has other classes.
    """
    checkpoint = run / BEST if run.is_dir() else run
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint} does not exist: {run} is not a run that has been evaluated")
    data = data_of(checkpoint.parent) if data is None else data
    if data is None:
        raise DatasetError(f"{checkpoint.parent} does not state the folder of its data; name it with --data")
    entries = read_entries(checkpoint)
    kind = choose_dataset(data, stated=entries.get("dataset"))
    split = "val" if "val" in splits_in(kind, data) else "train"
    if (names := class_names(entries)) is not None:
        check_classes(len(names), names, open_dataset(kind, data, split))
    return RunSource(checkpoint, data, kind, split)


def export_run(
    source: RunSource, directory: Path, facts: ModelFacts, *, int8: bool, report: Callable[[str], None]
) -> Exported:
    """Write the model directory of a run; what there are too few images for, or what loses too much, has no INT8 graph.

    Raises:
        ExportError: The directory holds a model already, or a graph lacks an attention.
        AgreementError: A graph does not agree with PyTorch; nothing is left behind.
    """
    forms = GraphForms(precisions=("fp32", "fp16"))
    graphs = export_onnx(source.checkpoint, directory, facts, forms, images=source.data)
    if not int8:
        return Exported(graphs, [], "it is left out, as asked")
    try:
        return Exported(graphs, quantize(directory, source.data, report=report), None)
    except QuantizationError as error:
        return Exported(graphs, [], str(error))
