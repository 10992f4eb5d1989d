"""The inspection of a dataset as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.model_directory.manifest import ClassInfo
from trainer.datasets.files import plural
from trainer.datasets.inspection import KINDS, SplitReport

Reports = Mapping[str, SplitReport]
"""The report of each split by its name."""


def as_text(reports: Reports, classes: Sequence[ClassInfo]) -> str:
    """A line per split, a table of the classes, then every problem."""
    blocks = (_split_lines(reports), _table(reports, classes), _absent(reports, classes), _problems(reports))
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block)))


def as_dict(reports: Reports, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """The reports for JSON; shares are fractions: a class's of the pixels that have one, void's of all pixels."""
    return {
        "classes": [{"id": info.id, "name": info.name, "color": list(info.color)} for info in classes],
        "splits": {name: _split_dict(report, classes) for name, report in reports.items()},
        "problems": sum(len(report.problems) for report in reports.values()),
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


def _problems(reports: Reports) -> Iterator[str]:
    """Every problem by kind, and how many there are."""
    for kind in KINDS.values():
        texts = [
            f"  {name}: {it.text}" for name, report in reports.items() for it in report.problems if it.kind == kind
        ]
        if texts:
            yield f"{kind}: {len(texts):,}"
            yield from texts
    total = sum(len(report.problems) for report in reports.values())
    yield plural(total, "problem") if total else "no problem: every file is there and can be used"


def _split_dict(report: SplitReport, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    shares = report.shares(len(classes))
    return {
        "images": report.images,
        "sizes": {_size(size): count for size, count in report.sizes.most_common()},
        "void_share": report.void_share,
        "class_shares": {info.name: float(shares[info.id]) for info in classes},
        "class_pixels": {info.name: int(report.pixels[info.id]) for info in classes},
        "class_images": {info.name: int(report.present[info.id]) for info in classes},
        "problems": {kind: [it.text for it in report.problems if it.kind == kind] for kind in KINDS.values()},
    }


def _size(size: tuple[int, int]) -> str:
    height, width = size
    return f"{width}x{height}"
