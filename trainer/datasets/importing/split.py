"""Split into train and val: the export's own, by whole sequences, or stratified by class.

Stratified is greedy, as in Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011): from
the rarest class on, an image goes to where most of its class are still wanted. The same content is never in two
splits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.datasets.files import summary
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.names import version_of
from trainer.datasets.importing.sequences import sequences

TRAIN, VAL = "train", "val"


@dataclass(frozen=True, slots=True)
class Item:
    """An image as the split sees it.

    Attributes:
        name: Its path without extension.
        digest: Equal for equal content.
        classes: The classes that it shows.
        split: The split that the export puts it in.
    """

    name: str
    digest: bytes
    classes: frozenset[int]
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """The split of each image, and a sentence on how it was chosen."""

    of: tuple[str, ...]
    how: str


@dataclass(slots=True)
class _Unit:
    """Images that stay together."""

    members: list[int]
    counts: dict[int, int]
    order: bytes

    @property
    def size(self) -> int:
        return len(self.members)


def split_images(items: Sequence[Item], share: float, by: str = "auto") -> Split:
    """Divide images.

    Args:
        items: The images.
        share: Of val, 0..1, among the images that the export puts in train or nowhere; not used where it has a val.
        by: ``sequence``, ``class``, or ``auto``: by sequence where the names show several.

    Raises:
        ImportingError: The export puts the same content in two splits.
    """
    own = {item.split for item in items if item.split}
    if len(own) < 2 and not (own and any(item.split is None for item in items)):
        items, own = [Item(it.name, it.digest, it.classes) for it in items], set()
    chosen = [item.split or TRAIN for item in items]
    how = "as the export splits it"
    if VAL not in own and share > 0:
        pool = [index for index, split in enumerate(chosen) if split == TRAIN]
        val, how = _choose_val([items[index] for index in pool], share, by)
        for index in val:
            chosen[pool[index]] = VAL
    _refuse_same(items, chosen)
    return Split(tuple(chosen), how)


def _choose_val(items: Sequence[Item], share: float, by: str) -> tuple[list[int], str]:
    groups = sequences([item.name for item in items]) if by != "class" else None
    if groups is None and by == "sequence":
        raise ImportingError("the names of the images show no sequences; split by class")
    units = _units(items, groups)
    val = _stratified(units, share * len(items), share)
    how = "whole sequences, as the names show them" if groups else "stratified by class"
    return [index for unit in val for index in unit.members], how


def _units(items: Sequence[Item], groups: Sequence[str] | None) -> list[_Unit]:
    """Images with equal content, versions of one photo, and frames of a sequence, as one unit each."""
    owner = list(range(len(items)))

    def root(index: int) -> int:
        while owner[index] != index:
            owner[index] = owner[owner[index]]
            index = owner[index]
        return index

    photos = len({version_of(item.name) for item in items})
    first: dict[object, int] = {}
    for index, item in enumerate(items):
        version = version_of(item.name) if photos > 1 else None
        for key in (item.digest, *([("photo", version)] if version else []), *([groups[index]] if groups else [])):
            owner[root(index)] = root(first.setdefault(key, index))
    members: dict[int, list[int]] = {}
    for index in range(len(items)):
        members.setdefault(root(index), []).append(index)
    return [_unit(items, indices) for indices in members.values()]


def _unit(items: Sequence[Item], indices: list[int]) -> _Unit:
    counts: dict[int, int] = {}
    for index in indices:
        for number in items[index].classes:
            counts[number] = counts.get(number, 0) + 1
    order = hashlib.sha256(items[indices[0]].name.encode()).digest()
    return _Unit(indices, counts, order)


def _stratified(units: Sequence[_Unit], val_images: float, share: float) -> list[_Unit]:
    """The units of val; both sides get one if there are two, and train gets every class."""
    if len(units) < 2:
        return []
    left = sorted(units, key=lambda unit: unit.order)
    wanted = _Wanted(left, val_images, share)
    sides: dict[str, list[_Unit]] = {TRAIN: [], VAL: []}
    while left:
        rarest = _rarest(left)
        takers = [unit for unit in left if rarest is None or rarest in unit.counts]
        for unit in takers:
            side = wanted.side(unit, rarest)
            sides[side].append(unit)
        left = [unit for unit in left if unit not in takers]
    return _mended(sides[TRAIN], sides[VAL])


class _Wanted:
    """Numbers of images, in all and of each class, that each side still lacks."""

    def __init__(self, units: Sequence[_Unit], val_images: float, share: float) -> None:
        total = sum(unit.size for unit in units)
        self._images = {VAL: max(val_images, 1.0), TRAIN: total - max(val_images, 1.0)}
        self._of: dict[str, dict[int, float]] = {TRAIN: {}, VAL: {}}
        for number in {number for unit in units for number in unit.counts}:
            having = [unit.counts[number] for unit in units if number in unit.counts]
            val = max(share * sum(having), 1.0) if len(having) > 1 else 0.0
            self._of[VAL][number], self._of[TRAIN][number] = val, sum(having) - val

    def side(self, unit: _Unit, number: int | None) -> str:
        """Choose the side that lacks most images of a class, and subtract the unit from its counts."""
        side = max((TRAIN, VAL), key=lambda side: (self._need(side, number), self._images[side]))
        self._images[side] -= unit.size
        for own, count in unit.counts.items():
            self._of[side][own] -= count
        return side

    def _need(self, side: str, number: int | None) -> float:
        return self._images[side] if number is None else self._of[side][number]


def _rarest(units: Sequence[_Unit]) -> int | None:
    """The class that the fewest units show; None where none shows any."""
    counts: dict[int, int] = {}
    for unit in units:
        for number in unit.counts:
            counts[number] = counts.get(number, 0) + 1
    return min(counts, key=lambda number: (counts[number], number), default=None)


def _mended(train: list[_Unit], val: list[_Unit]) -> list[_Unit]:
    """Val without units that alone show a class, and with the smallest unit of train if it would be empty."""
    taught = _shown(train)
    kept: list[_Unit] = []
    for unit in val:
        if unit.counts.keys() <= taught:
            kept.append(unit)
        else:
            train.append(unit)
            taught |= unit.counts.keys()
    if kept:
        return kept
    spare = [unit for unit in train if unit.counts.keys() <= _shown([other for other in train if other is not unit])]
    return [min(spare or train, key=lambda unit: (unit.size, unit.order))]


def _shown(units: Sequence[_Unit]) -> set[int]:
    return {number for unit in units for number in unit.counts}


def _refuse_same(items: Sequence[Item], splits: Sequence[str]) -> None:
    seen: dict[bytes, int] = {}
    same: list[str] = []
    for index, item in enumerate(items):
        first = seen.setdefault(item.digest, index)
        if splits[first] != splits[index]:
            same.append(f"{items[first].name} in {splits[first]} and {item.name} in {splits[index]}")
    if same:
        raise ImportingError(
            f"the same image is in two splits, so that val would test what was learned: {summary(same)}; "
            "remove one of each"
        )


def sizes(splits: Sequence[str]) -> Mapping[str, int]:
    """Number of images of each split, train first."""
    names = sorted(set(splits), key=lambda name: (name != TRAIN, name != VAL, name))
    return {name: list(splits).count(name) for name in names}
