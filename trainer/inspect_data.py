"""``ecenet-train data check``: content of a dataset, its faults, and a contact sheet."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from service.model_directory.files import named_in_errors
from trainer.data import SHEET_NAME
from trainer.datasets import DATASETS, DatasetError, PairedFiles, guess_dataset, open_dataset, splits_in
from trainer.datasets.contact_sheet import Entry, contact_sheet
from trainer.datasets.faults import Inspected, faults
from trainer.datasets.inspection import PairReport, SplitReport, inspect_split, problem
from trainer.datasets.inspection_text import as_dict, as_text

SHEET_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def check(args: argparse.Namespace) -> int:
    """Look through a dataset as the command line asks; gives the exit status: 1 if anything is wrong with it."""
    try:
        return _inspect(args)
    except (DatasetError, OSError) as error:
        print(f"ecenet-train data check: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _inspect(args: argparse.Namespace) -> int:
    sheet_path = sheet_file(args.output)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    kind = args.dataset or guess_dataset(args.root)
    names = args.split or splits_in(kind, args.root)
    datasets, reports = _open(kind, args.root, names)
    for name, dataset in datasets.items():
        reports[name] = inspect_split(dataset, args.workers, _progress(name))
    classes = next(iter(datasets.values())).classes
    absent = [split for split in DATASETS[kind].splits if split not in names and not args.split]
    found = faults(Inspected(args.root, datasets, reports, classes, is_whole=not args.split))
    print(*[f"no {split} split here" for split in absent], as_text(reports, classes, found), sep="\n")  # noqa: T201
    if args.json:
        content = {"dataset": kind, "root": str(args.root), **as_dict(reports, classes, found)}
        with named_in_errors(args.json):
            args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    entries = _entries(datasets, reports, args.samples)
    if entries:
        with named_in_errors(sheet_path):
            contact_sheet(entries, classes).save(sheet_path)
        print(f"contact sheet: {sheet_path}")  # noqa: T201
    return int(bool(found) or any(report.problems for report in reports.values()))


def _open(name: str, root: Path, splits: Iterable[str]) -> tuple[dict[str, PairedFiles], dict[str, SplitReport]]:
    """The splits that open, and a report for each; if none opens, the first one's fault is raised."""
    datasets: dict[str, PairedFiles] = {}
    reports: dict[str, SplitReport] = {}
    faults: list[DatasetError] = []
    for split in dict.fromkeys(splits):
        reports[split] = SplitReport()
        try:
            datasets[split] = open_dataset(name, root, split, incomplete=True)
        except DatasetError as error:
            faults.append(error)
            reports[split].problems.append(problem(error))
    if not datasets:
        raise faults[0]
    return datasets, reports


def _entries(datasets: Mapping[str, PairedFiles], reports: Mapping[str, SplitReport], samples: int) -> list[Entry]:
    """Samples for the contact sheet, spread evenly over the sound files of every split; half may be turned photos."""
    entries: list[Entry] = []
    for (name, dataset), share in zip(datasets.items(), _shared_out(samples, len(datasets)), strict=True):
        report = reports[name]
        turned = spread([index for index in report.turned if index in report.healthy], (share + 1) // 2)
        others = [index for index in report.healthy if index not in turned]
        indices = [*turned, *spread(others, share - len(turned))]
        entries += [Entry(f"{name}  {dataset.pairs[index][0].name}", dataset[index]) for index in indices]
    return entries


def _shared_out(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]


def spread(indices: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[place] for place in places]


def sheet_file(output: Path) -> Path:
    """Path of the contact sheet: a picture file, or ``contact-sheet.png`` in a folder.

    Raises:
        DatasetError: The ending is none of a picture's.
        OSError: The folder cannot be made.
    """
    path = output / SHEET_NAME if output.is_dir() or not output.suffix else output
    if path.suffix.lower() not in SHEET_FORMATS:
        raise DatasetError(f"{output} is not a picture file; its ending should be one of {', '.join(SHEET_FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _progress(name: str) -> Callable[[Iterator[PairReport], int], Iterable[PairReport]]:
    def shown(pairs: Iterator[PairReport], total: int) -> Iterable[PairReport]:
        return tqdm(pairs, desc=name, total=total, unit="image", disable=None)  # None: only on a terminal

    return shown
