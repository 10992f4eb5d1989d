"""The inspection of a dataset as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.model_directory.manifest import ClassInfo
from trainer.datasets.faults import Fault
from trainer.datasets.files import plural
from trainer.datasets.inspection import KINDS, SplitReport

Reports = Mapping[str, SplitReport]
"""The report of each split by its name."""

MENDS = {
    "missing": "add the file, or remove its counterpart",
    "labels compressed with loss": "export the masks again as PNG; the ids of these are lost",
    "unreadable": "copy or export the file again",
    "labels out of range": 'in classes.json, give a class this value as its "id", or list it in "ignore"',
    "sizes differ": 'export the labels at the size of the image; "exif": false in classes.json turns no photo',
    "unusable": "",
}
"""Remedy of each kind of problem, one sentence for the user."""


def as_text(reports: Reports, classes: Sequence[ClassInfo], faults: Sequence[Fault] = ()) -> str:
    """A line per split, a table of the classes, remarks, then every problem and fault."""
    looks = (*_absent(reports, classes), *_void(reports), *_turned(reports))
    blocks = (_split_lines(reports), _table(reports, classes), looks, _problems(reports), _faults(faults))
    text = "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block)))
    total = sum(len(report.problems) for report in reports.values()) + len(faults)
    return f"{text}\n{plural(total, 'problem') if total else 'no problem: every file exists and can be used'}"


def as_dict(reports: Reports, classes: Sequence[ClassInfo], faults: Sequence[Fault] = ()) -> dict[str, Any]:
    """The reports for JSON; shares are fractions: a class's of the pixels that have one, void's of all pixels."""
    return {
        "classes": [{"id": info.id, "name": info.name, "color": list(info.color)} for info in classes],
        "splits": {name: _split_dict(report, classes) for name, report in reports.items()},
        "faults": [{"text": fault.text, "mend": fault.mend} for fault in faults],
        "problems": sum(len(report.problems) for report in reports.values()) + len(faults),
    }


def _split_lines(reports: Reports) -> Iterator[str]:
    for name, report in reports.items():
        void = f"; {100 * report.void_share:.1f} % of the pixels are void" if report.pixels.any() else ""
        yield f"{name}: {plural(report.images, 'image')}{_sizes(report)}{void}"


def _sizes(report: SplitReport) -> str:
    if not report.sizes:
        return ""
    if len(report.sizes) == 1:
        return f", all {_size(next(iter(report.sizes)))}"
    smallest, *_, largest = sorted(report.sizes, key=lambda size: (size[0] * size[1], size))
    usual, count = report.sizes.most_common(1)[0]
    share = 100 * count / report.sizes.total()
    return f", {_size(smallest)} to {_size(largest)}, most often {_size(usual)} ({share:.0f} %)"


def _table(reports: Reports, classes: Sequence[ClassInfo]) -> Iterator[str]:
    width = max(len(info.name) for info in classes) + 6
    yield "class".ljust(width) + "".join(f"{name:>18}" for name in reports) + "   (pixels with a class, images)"
    shares = {name: report.shares(len(classes)) for name, report in reports.items()}
    for info in classes:
        cells = (f"{100 * shares[name][info.id]:8.2f} %{reports[name].present[info.id]:8,}" for name in reports)
        yield f"{info.id:>4}  {info.name}".ljust(width) + "".join(cells)


def _absent(reports: Reports, classes: Sequence[ClassInfo]) -> Iterator[str]:
    for name, report in reports.items():
        absent = [info.name for info in classes if not report.present[info.id]]
        if absent and report.pixels.any():
            yield f"{name} has no pixel of: {', '.join(absent)}"


def _void(reports: Reports) -> Iterator[str]:
    for name, report in reports.items():
        if report.void and len(report.void) < report.images:
            yield f"{name} has {plural(len(report.void), 'image')} whose labels are void all over"


def _turned(reports: Reports) -> Iterator[str]:
    for name, report in reports.items():
        if report.turned:
            turned, labels = plural(len(report.turned), "photo"), len(report.turned_labels)
            yield (
                f"{name} has {turned} that EXIF turns, {len(report.turned) - labels} with upright labels and {labels} "
                "whose labels are turned too: look at them on the contact sheet; "
                '"exif": false in classes.json turns none'
            )


def _faults(faults: Sequence[Fault]) -> Iterator[str]:
    for fault in faults:
        yield fault.text
        yield f"  fix: {fault.mend}"


def _problems(reports: Reports) -> Iterator[str]:
    """Every problem by kind, with its remedy."""
    for kind in KINDS.values():
        texts = [
            f"  {name}: {it.text}" for name, report in reports.items() for it in report.problems if it.kind == kind
        ]
        if texts:
            yield f"{kind}: {len(texts):,}"
            yield from texts
            if MENDS[kind]:
                yield f"  fix: {MENDS[kind]}"


def _split_dict(report: SplitReport, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    shares = report.shares(len(classes))
    return {
        "images": report.images,
        "sizes": {_size(size): count for size, count in report.sizes.most_common()},
        "void_share": report.void_share,
        "class_shares": {info.name: float(shares[info.id]) for info in classes},
        "class_pixels": {info.name: int(report.pixels[info.id]) for info in classes},
        "void_images": len(report.void),
        "turned_photos": len(report.turned),
        "turned_labels": len(report.turned_labels),
        "class_images": {info.name: int(report.present[info.id]) for info in classes},
        "problems": {kind: [it.text for it in report.problems if it.kind == kind] for kind in KINDS.values()},
    }


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
