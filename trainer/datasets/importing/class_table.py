"""The classes of the data set that an export becomes, and the id of each of the tool's classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from service.model_directory.manifest import same_name
from trainer.datasets.errors import unknown_name
from trainer.datasets.folder_spec import MAX_CLASSES
from trainer.datasets.importing.colors import unused_colors
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.records import BACKGROUNDS, IGNORED, Category, Export
from trainer.datasets.label_coding import IGNORE_INDEX, Color

BACKGROUND_COLOR = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Classes by id.

    Attributes:
        names: Their names.
        colors: Their colours.
        ids: The id of each of the export's classes, ``IGNORE_INDEX`` for those that count as nothing.
        unlabelled: The id of unlabelled pixels.
        adds_background: Whether the first class is one that the export does not have.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ids: Mapping[str, int]
    unlabelled: int
    adds_background: bool = False

    def without_unlabelled(self) -> ClassTable:
        """The table where every pixel has been labelled: without the first class, the background."""
        ids = {name: index - 1 for name, index in self.ids.items() if 0 < index < IGNORE_INDEX}
        return ClassTable(self.names[1:], self.colors[1:], ids, IGNORE_INDEX)


def class_table(export: Export, unlabelled: str, only: Collection[str] = ()) -> ClassTable:
    """Number the classes of an export; the background comes first where the tool has no place for it.

    Args:
        export: The export.
        unlabelled: What unlabelled pixels become: ``background``, a separate class, or ``void``, which no loss
            counts.
        only: The classes to keep, all if empty; the others count as unlabelled.

    Raises:
        DatasetError: ``only`` names an unknown class, or two classes have the same name.
    """
    categories = [it for it in export.categories if it.name != IGNORED]
    for name in only:
        if name not in {category.name for category in categories}:
            raise unknown_name("class", name, [category.name for category in categories])
    named = export.unlabelled or next((it.name for it in categories if it.name.lower() in BACKGROUNDS), None)
    adds_background = unlabelled == "background" and named is None and not (export.is_dense and not only)
    kept = [it for it in categories if not only or it.name in only or it.name == named]
    if unlabelled == "void":
        kept = [it for it in kept if it.name != export.unlabelled or it.name in only]
    if adds_background:
        named = "background"
        kept.insert(0, Category(named, BACKGROUND_COLOR))
    if fault := same_name([category.name for category in kept]):
        raise ImportingError(fault)
    ids = {category.name: index for index, category in enumerate(kept)}
    rest = ids[named] if unlabelled == "background" and named is not None else IGNORE_INDEX
    every = {**{it.name: rest for it in categories}, **ids, IGNORED: IGNORE_INDEX}
    return ClassTable(tuple(ids), _colors(kept), every, rest, adds_background)


def check_count(table: ClassTable, least: int = 2) -> None:
    """Refuse fewer classes than a model can separate, and more than label files hold.

    Raises:
        ImportingError: There are not ``least``..255.
    """
    count = len(table.names)
    if not least <= count <= MAX_CLASSES:
        shown = ", ".join(map(repr, table.names[:5])) or "none"
        hint = "; --only keeps some, and --unlabelled void adds no background" if count > MAX_CLASSES else ""
        if count == 1 and table.names[0].lower() not in BACKGROUNDS:
            hint = "; --unlabelled background makes the rest a class"
        raise ImportingError(f"the number of classes is {count} ({shown}), expected 2..{MAX_CLASSES}{hint}")


def _colors(categories: Collection[Category]) -> tuple[Color, ...]:
    free = unused_colors(it.color for it in categories if it.color is not None)
    colors: list[Color] = []
    for category in categories:
        is_background = category.name.lower() in BACKGROUNDS
        colors.append(category.color or (BACKGROUND_COLOR if is_background else next(free)))
    return tuple(colors)
