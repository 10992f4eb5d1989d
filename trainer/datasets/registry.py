"""The datasets by name."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from service.model_directory.manifest import ClassInfo
from trainer.datasets.ade20k import ADE20K
from trainer.datasets.base import PairedFiles, PublishedDataset
from trainer.datasets.camvid import CamVid
from trainer.datasets.cityscapes import Cityscapes
from trainer.datasets.cityscapes_pairs import CityscapesPairs
from trainer.datasets.errors import DatasetError, MissingFileError, unknown_name
from trainer.datasets.folder import Folder
from trainer.datasets.folder_spec import SPEC_NAME
from trainer.datasets.pascal_context import PascalContext, PascalContext59
from trainer.datasets.voc import VOC

DATASETS: Mapping[str, type[PublishedDataset | Folder]] = {
    "camvid": CamVid,
    "ade20k": ADE20K,
    "pascal_context": PascalContext,
    "pascal_context_60": PascalContext,
    "pascal_context_59": PascalContext59,
    "cityscapes": Cityscapes,
    "cityscapes_pairs": CityscapesPairs,
    "voc": VOC,
    "folder": Folder,
}


def open_dataset(name: str, root: Path, split: str, *, incomplete: bool = False) -> PairedFiles:
    """Open a split of a dataset by name.

    Args:
        name: One of ``DATASETS``.
        root: The folder that holds the dataset's own top folder, or that one.
        split: A split of the dataset; ``train`` and ``val`` are what the published ones share.
        incomplete: Take the complete pairs where files are missing, instead of raising; ``missing`` names the others.

    Raises:
        DatasetError: The name or the split is unknown, or the folder does not fit.
    """
    return _kind(name, root)(root, split, incomplete=incomplete)


def splits_in(name: str, root: Path) -> tuple[str, ...]:
    """The splits of a dataset that ``root`` holds.

    Raises:
        DatasetError: The name is unknown, or there is none.
    """
    return _kind(name, root).splits_in(root)


def guess_dataset(root: Path) -> str:
    """The name of the dataset that a folder holds, by its files.

    Raises:
        DatasetError: It holds none.
    """
    if not root.is_dir():
        raise MissingFileError(f"{root} is not a folder; it should hold a dataset")
    for name, kind in DATASETS.items():
        try:
            if kind.splits_in(root):
                return name
        except DatasetError:
            continue
    if (root / SPEC_NAME).exists() or (root / "images").is_dir():
        return Folder.name
    raise DatasetError(
        f"{root} holds no dataset: neither {SPEC_NAME} nor the layout of one of {', '.join(DATASETS)}; annotations of "
        f"a tool become one with: ecenet-train data import {shlex.quote(str(root))} --from TOOL -o FOLDER"
    )


def choose_dataset(root: Path, name: str | None = None, stated: str | None = None) -> str:
    """The name of the dataset to read in a folder.

    Args:
        root: The folder.
        name: A name that is asked for; it is given back.
        stated: The name that a model states of its training; taken if the folder has the layout of that dataset.

    Raises:
        DatasetError: Nothing is asked for, and the folder holds no dataset.
    """
    if name is not None:
        return name
    try:
        if stated is not None and stated in DATASETS and splits_in(stated, root):
            return stated
    except DatasetError:
        pass  # the model was trained on data of another layout
    return guess_dataset(root)


def dataset_classes(name: str) -> tuple[ClassInfo, ...]:
    """The classes of a published dataset, which need no file of it.

    Raises:
        DatasetError: The name is unknown, or the classes are in the folder's ``classes.json``.
    """
    kind = _kind(name)
    if issubclass(kind, Folder):
        raise DatasetError(f"the classes of {name!r} are those of its {SPEC_NAME}; open it")
    return kind.classes


def _kind(name: str, root: Path | None = None) -> type[PublishedDataset | Folder]:
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    if root is not None and not root.is_dir():
        raise MissingFileError(f"{root} is not a folder; it should hold the dataset {name}")
    return DATASETS[name]
