"""Classes of the values of masks, from a list of classes or from the masks themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainer.datasets.errors import UnreadableFileError
from trainer.datasets.importing.class_lists import ClassList
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.mask_files import Coding, is_colored
from trainer.datasets.importing.records import BACKGROUNDS, IGNORED, Category
from trainer.datasets.label_coding import IGNORE_INDEX, Color
from trainer.datasets.reading import as_ids, as_rgb, opened_label, palette_colors

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
VOC_VOID = (224, 224, 192)
BACKGROUND, FOREGROUND = "background", "foreground"
MAX_UNNAMED = 100
"""More different values than these are shades, not classes, unless a list names them."""


def coding_of(masks: Sequence[Path], listed: ClassList | None) -> Coding:
    """Find the class of each value or colour of the masks.

    Args:
        masks: All of them; they are read where there is no list. Broken ones are left to what draws them.
        listed: The classes as a list file names them.

    Raises:
        DatasetError: Some masks hold colours and some values, or more values than classes can have.
    """
    if listed is not None and listed.encoding is not None:
        return listed_coding(listed, by_color=listed.encoding == "colors")
    found = _kinds(masks)
    colored = [path for path, by_color in found.items() if by_color]
    if colored and len(colored) < len(found):
        grey = next(path for path, by_color in found.items() if not by_color)
        raise ImportingError(f"{colored[0]} is a mask of colours and {grey} one of values; all must be alike")
    if listed is not None:
        return listed_coding(listed, by_color=bool(colored))
    return _colors_found(list(found)) if colored else _values_found(list(found))


def _kinds(masks: Sequence[Path]) -> dict[Path, bool]:
    """True for each mask that holds colours, False for one of values; broken masks are left out unless all are."""
    kinds: dict[Path, bool] = {}
    faults: list[UnreadableFileError] = []
    for path in masks:
        try:
            kinds[path] = is_colored(path)
        except UnreadableFileError as error:
            faults.append(error)
    if not kinds:
        raise faults[0]
    return kinds


def listed_coding(listed: ClassList, *, by_color: bool) -> Coding:
    """The coding of a list; 255, black and Pascal VOC's void count as nothing where no class has them."""
    classes = [entry for entry in listed.entries if entry.name != IGNORED]
    colors = {entry.color: entry.name for entry in classes if entry.color is not None}
    if by_color and len(colors) < len(classes):
        missing = next((entry.name for entry in classes if entry.color is None), None)
        why = f"class {missing!r} has no colour" if missing else "two classes have one colour"
        raise ImportingError(f"the masks hold colours, but {why}")
    unlabelled = next((entry.name for entry in classes if entry.name.lower() in BACKGROUNDS), None)
    ignored = {entry.color: IGNORED for entry in listed.entries if entry.name == IGNORED and entry.color is not None}
    return Coding(
        ids={IGNORE_INDEX: IGNORED, **{entry.value: entry.name for entry in listed.entries if entry.value is not None}},
        colors={BLACK: IGNORED, VOC_VOID: IGNORED, **ignored, **colors},
        by_color=by_color,
        categories=tuple(Category(entry.name, entry.color) for entry in classes),
        unlabelled=unlabelled,
        may_mean_colors=listed.encoding is None,
    )


def _values_found(masks: Sequence[Path]) -> Coding:
    """Classes from the values themselves; where these are 0 and 255 alone, 255 is the foreground, else void."""
    values: set[int] = set()
    palette: dict[int, Color] = {}
    for path in masks:
        with suppress(UnreadableFileError), opened_label(path) as image:
            ids = as_ids(path, image)
            values.update(np.unique(ids).tolist())
            _add_palette(path, palette_colors(image, ids), palette)
        _check_count(path, values)
    if not values:
        raise ImportingError(f"no mask can be read, neither {masks[0]} nor another")
    if min(values) < 0 or max(values) > 65535:
        raise ImportingError(f"the masks hold values from {min(values)} to {max(values)}, expected 0..65535")
    if values <= {0, 255} and 255 in values:
        names = {0: BACKGROUND, 255: FOREGROUND}
    else:
        names = {value: f"class {value}" for value in sorted(values - {0, IGNORE_INDEX})} | {IGNORE_INDEX: IGNORED}
        names |= {0: BACKGROUND} if 0 in values else {}
    shown = {
        value: name for value, name in sorted(names.items()) if name != IGNORED and (value in values or value == 0)
    }
    categories = tuple(Category(name, palette.get(value)) for value, name in shown.items())
    return Coding(names, {}, False, categories, names.get(0))


def _add_palette(path: Path, own: Mapping[int, Color], palette: dict[int, Color]) -> None:
    """Note the colours of the values of a mask; those of all masks must agree."""
    for value, color in own.items():
        if palette.setdefault(value, color) != color:
            raise ImportingError(
                f"{path} shows the value {value} as {color}, and another mask as {palette[value]}: their palettes "
                'differ. Name the classes with --classes classes.json, with "encoding": "colors" if the colours count, '
                'or "ids"'
            )


def _colors_found(masks: Sequence[Path]) -> Coding:
    """Classes named after their colours; black is the background."""
    colors: set[Color] = set()
    for path in masks:
        with suppress(UnreadableFileError), opened_label(path) as image:
            codes = as_rgb(path, image).astype(np.uint32) @ np.array((1 << 16, 1 << 8, 1), np.uint32)
            colors.update((code >> 16, code >> 8 & 255, code & 255) for code in np.unique(codes).tolist())
        _check_count(path, colors)
    names = {color: _color_name(color, colors) for color in sorted(colors)}
    categories = tuple(Category(name, color) for color, name in names.items())
    return Coding({}, names, True, categories, names.get(BLACK))


def _color_name(color: Color, colors: Iterable[Color]) -> str:
    if color == BLACK:
        return BACKGROUND
    if color == WHITE and set(colors) <= {BLACK, WHITE}:
        return FOREGROUND
    return "#{:02x}{:02x}{:02x}".format(*color)


def _check_count(path: Path, values: set[int] | set[Color]) -> None:
    if len(values) > MAX_UNNAMED:
        raise ImportingError(
            f"{path} brings the masks to {len(values)} different values, at most {MAX_UNNAMED} can be classes: "
            "are they smoothed, or compressed with loss? Name the classes with --classes FILE if there are as many"
        )
