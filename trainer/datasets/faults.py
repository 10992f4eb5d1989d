"""Faults of a dataset whose files can all be read, each with its remedy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from service.model_directory.manifest import ClassInfo
from trainer.datasets.base import PairedFiles
from trainer.datasets.errors import DatasetError
from trainer.datasets.files import plural, summary
from trainer.datasets.folder import Folder
from trainer.datasets.folder_spec import SPEC_NAME
from trainer.datasets.inspection import SplitReport
from trainer.datasets.label_coding import IGNORE_INDEX
from trainer.datasets.reading import read_label_map

TRAIN, VAL = "train", "val"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a dataset as a whole.

    Attributes:
        text: A sentence on the fault.
        mend: The remedy: a line to write or a command to run.
    """

    text: str
    mend: str


@dataclass(frozen=True, slots=True)
class Inspected:
    """A dataset that was looked through.

    Attributes:
        root: Its folder.
        datasets: Its splits that opened.
        reports: The report of each split.
        classes: Its classes.
        is_whole: Whether all of its splits were looked through.
    """

    root: Path
    datasets: Mapping[str, PairedFiles]
    reports: Mapping[str, SplitReport]
    classes: Sequence[ClassInfo]
    is_whole: bool = True


def faults(inspected: Inspected) -> list[Fault]:
    """Everything that keeps the dataset from training well."""
    splits = list(_missing_splits(inspected)) if inspected.is_whole else []
    binary = list(_binary_masks(inspected))
    return [*splits, *binary, *([] if binary else [*_void(inspected), *_unseen(inspected)]), *_same_images(inspected)]


def _missing_splits(inspected: Inspected) -> Iterator[Fault]:
    others = [name for name in inspected.reports if name not in (TRAIN, VAL)]
    for split, why in ((TRAIN, "there is nothing to learn from"), (VAL, "nothing shows how well it learns")):
        if split not in inspected.reports:
            there = f"; there is: {', '.join(inspected.reports)}" if inspected.reports else ""
            yield Fault(f"there is no {split} split, so {why}{there}", _mend_split(inspected.root, split, others))


def _mend_split(root: Path, split: str, others: Sequence[str]) -> str:
    if not others:
        return f"ecenet-train data import {shlex.quote(str(root))} --from masks -o FOLDER --split 0.2"
    other = others[0]
    moves = (["mv", f"{root}/{kind}/{other}", f"{root}/{kind}/{split}"] for kind in ("images", "labels"))
    return " && ".join(map(shlex.join, moves))


def _binary_masks(inspected: Inspected) -> Iterator[Fault]:
    """Masks of 0 and 255 where 255 is not a class."""
    folders = {name: dataset for name, dataset in inspected.datasets.items() if isinstance(dataset, Folder)}
    for name, dataset in folders.items():
        found = inspected.reports[name]
        has_others = np.delete(found.present, [*_classes_of_zero(dataset), IGNORE_INDEX]).any()
        if dataset.spec.ids.get(IGNORE_INDEX, IGNORE_INDEX) == IGNORE_INDEX and not has_others and _is_binary(dataset):
            read_as = "void" if IGNORE_INDEX in dataset.spec.ids else "class 255, which there is not"
            text = f"the labels of {name} hold 0 and 255 alone, and 255 is read as {read_as}"
            yield Fault(text, f"in {inspected.root / SPEC_NAME}: {_with_id(inspected.classes)}")
            return


def _classes_of_zero(dataset: Folder) -> list[int]:
    return [dataset.spec.ids[0]] if 0 in dataset.spec.ids else []


def _is_binary(dataset: Folder) -> bool:
    """Check whether the readable label files hold the values 0 and 255 and no other."""
    values: set[int] = set()
    for _, path in dataset.pairs:
        try:
            values.update(np.unique(read_label_map(path)).tolist())
        except DatasetError:
            continue
        if not values <= {0, 255}:
            return False
    return values == {0, 255}


def _with_id(classes: Sequence[ClassInfo]) -> str:
    """The line of ``classes.json`` with 255 for the second class."""
    entries = [_entry(info, 0 if info.id == 0 else None) for info in classes]
    entries[1]["id"] = 255
    return f'"classes": {json.dumps(entries, ensure_ascii=False)}, "ignore": []'


def _entry(info: ClassInfo, number: int | None) -> dict[str, object]:
    return {"name": info.name, "color": list(info.color), **({} if number is None else {"id": number})}


def _void(inspected: Inspected) -> Iterator[Fault]:
    for name, report in inspected.reports.items():
        if report.pixels.any() and not report.pixels[: len(inspected.classes)].any():
            mend = "export the labels again with their classes"
            if isinstance(inspected.datasets.get(name), Folder):
                mend = f'in {inspected.root / SPEC_NAME}: give the classes the "id" that label files have for them'
            yield Fault(f"all labels of {name} are void: no pixel counts", mend)


def _unseen(inspected: Inspected) -> Iterator[Fault]:
    """Classes that train does not show."""
    report = inspected.reports.get(TRAIN)
    if report is None or not report.pixels[: len(inspected.classes)].any():
        return
    unseen = [info for info in inspected.classes if not report.present[info.id]]
    if unseen:
        names = summary([info.name for info in unseen])
        yield Fault(f"train has no pixel of {names}: what is not shown cannot be learned", _mend_unseen(inspected))


def _mend_unseen(inspected: Inspected) -> str:
    """The classes that train shows, with the ids that they have in label files."""
    dataset = inspected.datasets[TRAIN]
    seen = [info for info in inspected.classes if inspected.reports[TRAIN].present[info.id]]
    if not isinstance(dataset, Folder) or len(seen) < 2:
        return "add images that show it"
    ids = {index: number for number, index in dataset.spec.ids.items() if index != IGNORE_INDEX}
    entries = json.dumps([_entry(info, ids[info.id]) for info in seen], ensure_ascii=False)
    unseen = [ids[info.id] for info in inspected.classes if info not in seen]
    others = sorted({number for number, index in dataset.spec.ids.items() if index == IGNORE_INDEX} | set(unseen))
    return f'add images that show it, or in {inspected.root / SPEC_NAME}: "classes": {entries}, "ignore": {others}'


def _same_images(inspected: Inspected) -> Iterator[Fault]:
    """Images that are in two splits."""
    paths = {
        name: {digest: str(inspected.datasets[name].pairs[index][0]) for index, digest in report.digests.items()}
        for name, report in inspected.reports.items()
    }
    for one, other in combinations(paths, 2):
        both = [(paths[one][digest], paths[other][digest]) for digest in paths[one] if digest in paths[other]]
        if both:
            pairs = summary([f"{first} and {second}" for first, second in both])
            yield Fault(
                f"{plural(len(both), 'image')} of {one} also in {other}, which then tests what was learned: {pairs}",
                f"{shlex.join(['rm', *(second for _, second in both)])} and the labels of the same names",
            )
