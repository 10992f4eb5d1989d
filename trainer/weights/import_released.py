"""``ecenet-train import``: the authors' released weights as a checkpoint of ours, with every key accounted for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from service.model_directory.manifest import ClassInfo, file_sha256
from trainer.checkpoint import class_entries, entries_of, save_checkpoint
from trainer.datasets import DATASETS, dataset_classes
from trainer.datasets.folder import Folder
from trainer.datasets.folder_spec import SPEC_NAME, read_spec
from trainer.model.ecenet import NAMED_SIZES, ECENet, ModelConfig
from trainer.weights.files import OWN, WeightFile, read_weights
from trainer.weights.network import network_of
from trainer.weights.released import build_network
from trainer.weights.released_keys import DERIVED, ReleasedWeights, StateDictError, released_weights, torch_style
from trainer.weights.released_names import released_name

RELEASED_SIZE = (640, 640)  # the crop that the authors train on and slide over the image
FOLDER = "folder"


class ImportWeightsError(ValueError):
    """Released weights that cannot become a checkpoint; the text names the fault and the expectation."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Account of an import; as text, a table whose counts add up to the keys of the file.

    Attributes:
        file: The file that was read.
        weights: Its keys, accounted for.
        our_names: The name of each weight in ``weights`` to ours.
        summary: A line on the checkpoint that was written.
    """

    file: WeightFile
    weights: ReleasedWeights
    our_names: dict[str, str]
    summary: str

    def __str__(self) -> str:
        lines = [f"{title:<26}{count:>5}  {note}".rstrip() for title, count, note in self._rows()]
        return "\n".join([str(self.file), *lines, self.summary])

    def keys(self) -> str:
        """One line per weight: its name in the file, ours, and its shape."""
        tensors, origins = self.weights.tensors, self.weights.origins
        return "\n".join(f"{origins[name]} -> {self.our_names[name]} {list(tensors[name].shape)}" for name in tensors)

    def _rows(self) -> list[tuple[str, int, str]]:
        origins = self.weights.origins
        restyled = [name for name in origins.values() if torch_style(name) != name]
        prefixes = [torch_style(name).removesuffix(plain) for plain, name in origins.items()]
        ignored = {
            "derived buffers, ignored": self.weights.derived,
            "bookkeeping, ignored": self.weights.bookkeeping,
            "entries beside the keys": self.file.others,
        }
        return [
            ("keys read", len(self.file.tensors), ""),
            ("loaded", len(origins), ""),
            ("  MindSpore's norm names", len(restyled), ", ".join(sorted({_suffix(name) for name in restyled}))),
            ("  prefix removed", sum(map(bool, prefixes)), ", ".join(sorted(set(prefixes) - {""}))),
            *((title, len(names), ", ".join(names)) for title, names in ignored.items()),
        ]


def import_weights(
    source: Path,
    output: Path,
    *,
    dataset: str | None = None,
    classes: Path | None = None,
    size: tuple[int, int] | None = None,
) -> ImportReport:
    """Turn the released weights into a checkpoint of ours, which trains on, exports and serves like any other.

    Args:
        source: The authors' MindSpore checkpoint, or any file of a whole network that ``load_model`` takes.
        output: The checkpoint to write.
        dataset: A published dataset whose classes the weights have; by default the one with their number of classes. If
            there is none, the checkpoint has no names, and an export numbers the classes.
        classes: A folder dataset's ``classes.json`` instead, or the folder that holds it.
        size: (height, width) in pixels that the model is to be served at; by default 640x640, the authors' crop.

    Raises:
        ImportWeightsError: The output exists, the file holds no whole network, a weight is not a number, or the classes
            do not fit.
        StateDictError: Missing, extra or misshapen keys, or two names of one tensor; the text lists them all.
        DatasetError: The dataset is unknown, or the ``classes.json`` is not valid.
        CheckpointError: The file cannot be read.
    """
    if output.exists():
        raise ImportWeightsError(f"{output} exists already; remove it or name another file")
    file = read_weights(source)
    _check_finite(file)
    model, weights, entries = _read_network(file)
    entries |= _class_entries(model.config.num_classes, dataset, classes, entries)
    height, width = size or entries.get("input_size", RELEASED_SIZE)
    config = _named(model.config)
    entries |= {
        "architecture": _architecture(config),
        "input_size": [height, width],
        "metrics": entries.get("metrics", {}),
        "imported_from": {"file": source.name, "sha256": file_sha256(source)},
    }
    save_checkpoint(output, config, model.state_dict(), **entries)
    return ImportReport(file, weights, _our_names(model, file), _summary(output, model, entries))


def _check_finite(file: WeightFile) -> None:
    broken = [name for name, tensor in file.tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ImportWeightsError(
            f"{file.path} has {len(broken)} tensors with NaN or infinity, expected numbers: {', '.join(broken)}"
        )


def _read_network(file: WeightFile) -> tuple[ECENet, ReleasedWeights, dict[str, Any]]:
    """The network of a file, its keys, and the other entries of a checkpoint of ours."""
    if file.kind == OWN:
        network, entries = network_of(file), entries_of(file.checkpoint)
        derived = tuple(name for name in file.tensors if name.endswith(DERIVED))
        tensors = {name: tensor for name, tensor in file.tensors.items() if name not in derived}
        weights = ReleasedWeights(tensors, {name: name for name in tensors}, derived, ())
    else:
        weights, entries = released_weights(file.tensors), {}
        try:
            network = build_network(weights)
        except StateDictError as error:
            raise StateDictError(f"{file}: {error}") from error
    if not isinstance(network, ECENet):
        part = "backbone" if weights.has_backbone else "decode head"
        raise ImportWeightsError(
            f"{file} holds the {part} alone, {len(weights.tensors)} tensors; a checkpoint to export and serve needs "
            "backbone and decode head"
        )
    return network, weights, entries


def _our_names(model: ECENet, file: WeightFile) -> dict[str, str]:
    names = [name for name in model.state_dict() if not name.endswith(DERIVED)]
    return {name if file.kind == OWN else released_name(name): name for name in names}


def _class_entries(
    num_classes: int, dataset: str | None, classes: Path | None, entries: dict[str, Any]
) -> dict[str, Any]:
    """The entries ``dataset`` and ``classes`` of the checkpoint, if they are known."""
    if classes is not None:
        name, infos = FOLDER, _read_classes(classes)
    elif dataset is not None:
        name, infos = dataset, dataset_classes(dataset)
    elif "classes" in entries or (fitting := _dataset_of(num_classes)) is None:
        return {}
    else:
        name, infos = fitting, dataset_classes(fitting)
    if len(infos) != num_classes:
        raise ImportWeightsError(f"{classes or name} has {len(infos)} classes, the weights have {num_classes}")
    return {"dataset": name, "classes": class_entries(infos)}


def _read_classes(path: Path) -> tuple[ClassInfo, ...]:
    if path.is_file() and path.name != SPEC_NAME:
        raise ImportWeightsError(f"{path} has to be called {SPEC_NAME}, as in a folder dataset")
    return read_spec(path.parent if path.name == SPEC_NAME else path).classes


def _dataset_of(num_classes: int) -> str | None:
    """The one published dataset with that many classes."""
    published = {name: dataset_classes(name) for name, kind in DATASETS.items() if not issubclass(kind, Folder)}
    fitting = {infos: name for name, infos in reversed(published.items()) if len(infos) == num_classes}
    return next(iter(fitting.values())) if len(fitting) == 1 else None


def _named(config: ModelConfig) -> ModelConfig:
    """The configuration, with the regularisation of the named size that it is, for training on."""
    name = _architecture(config)
    if name not in NAMED_SIZES:
        return config
    return replace(config, dropout=NAMED_SIZES[name].dropout, drop_path=NAMED_SIZES[name].drop_path)


def _architecture(config: ModelConfig) -> str:
    for name, known in NAMED_SIZES.items():
        alike = replace(known, num_classes=config.num_classes, dropout=config.dropout, drop_path=config.drop_path)
        if alike == config:
            return name
    return f"ecenet-{config.backbone}"


def _summary(output: Path, model: ECENet, entries: dict[str, Any]) -> str:
    megas = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    height, width = entries["input_size"]
    names = (
        f"those of {entries.get('dataset', 'its own')}"
        if "classes" in entries
        else "without names, see --dataset and --classes"
    )
    return (
        f"{output}: {entries['architecture']}, {megas:.2f} M parameters, input {height}x{width}, "
        f"{model.config.num_classes} classes, {names}"
    )


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
