"""Gathers what a reader finds into an export."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.datasets.files import plural, summary
from trainer.datasets.folder_spec import check_name
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.importing.records import AnnotatedImage, Category, Export, Layer
from trainer.datasets.importing.sources import ImageFiles, missing_image, path_split, relative_name
from trainer.datasets.label_coding import Color


@dataclass(frozen=True, slots=True)
class Source:
    """Input of a reader.

    Attributes:
        path: The export, a file or a folder.
        image_folders: Folders beside it that hold its images.
        class_list: A file that names the classes of masks, where the user gave one.
        exif: Whether EXIF orientations are applied.
    """

    path: Path
    image_folders: tuple[Path, ...] = ()
    class_list: Path | None = None
    exif: bool = True

    @property
    def root(self) -> Path:
        """The folder of the export."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def roots(self) -> tuple[Path, ...]:
        """All folders that may hold images."""
        return (self.root, *self.image_folders)


class Collector:
    """Classes, images and the shapes left out.

    Args:
        source: The export.
        files: Its images; those below ``source.roots`` if not given.
    """

    def __init__(self, source: Source, files: ImageFiles | None = None) -> None:
        self.files = files or ImageFiles(source.roots)
        self.missing: list[str] = []
        self._roots = source.roots
        self._categories: dict[str, Category] = {}
        self._images: dict[Path | str, AnnotatedImage] = {}
        self._left_out: Counter[str] = Counter()
        self._left_out_in: dict[str, Path] = {}

    def category(self, name: str, color: Color | None = None) -> str:
        """Note a class, and its colour if none is known yet; returns the name.

        Raises:
            DatasetError: The name cannot be shown.
        """
        check_name(name)
        known = self._categories.get(name)
        if known is None or known.color is None:
            self._categories[name] = Category(name, color)
        return name

    def leave_out(self, source: Path, why: str) -> None:
        """Count a shape that is not drawn; ``why`` continues a sentence, as ``has no area``."""
        self._left_out[why] += 1
        self._left_out_in.setdefault(why, source)

    def find(self, references: Iterable[str], source: Path) -> Path | None:
        """The image of the first reference that has one; if none has, it is missing."""
        wanted = list(references)
        for reference in wanted:
            path = self.files.find(reference, source.parent)
            if path is not None:
                return path
        outside = self.files.is_outside(wanted[0], source.parent)
        self.missing.append(missing_image(wanted[0], source, is_outside=outside))
        return None

    def add(
        self,
        image: Path,
        layers: Sequence[Layer],
        source: Path,
        *,
        size: tuple[int, int] | None = None,
        split: str | None = None,
    ) -> None:
        """Note an image file with the shapes drawn on it.

        Args:
            image: The file.
            layers: The lowest first.
            source: The file that holds the annotation.
            size: (height, width) that the annotation is for.
            split: The split, where the annotation states it; else the folders of the image and of ``source`` do.

        Raises:
            ImportingError: The image has an annotation already.
        """
        name = relative_name(image, self._roots)
        split = split or path_split(name) or path_split(relative_name(source, self._roots))
        self._note(image.resolve(), AnnotatedImage(name, image, tuple(layers), source, size, split))

    def add_embedded(
        self, name: str, image: bytes, layers: Sequence[Layer], source: Path, size: tuple[int, int] | None
    ) -> None:
        """Note an image that the annotation file embeds."""
        split = path_split(relative_name(source, self._roots))
        self._note(str(source), AnnotatedImage(name, image, tuple(layers), source, size, split))

    def export(self, *, unlabelled: str | None = None, is_dense: bool = False) -> Export:
        """All that was gathered."""
        used = set(self._images)
        unused = [str(path) for path in self.files.paths if path.resolve() not in used]
        notes = [self._note_on(why, count) for why, count in self._left_out.items()]
        if self.files.elsewhere:
            moved = [f"{reference} is {path}" for reference, path in self.files.elsewhere]
            count = plural(len(moved), "image")
            notes.append(f"{count} found by name alone, in another folder than the annotation's: {summary(moved, 3)}")
        if unused:
            notes.append(f"{plural(len(unused), 'image')} without an annotation left out: {summary(unused, 3)}")
        images = tuple(self._images.values())
        return Export(tuple(self._categories.values()), images, tuple(self.missing), tuple(notes), unlabelled, is_dense)

    def _note(self, key: Path | str, image: AnnotatedImage) -> None:
        known = self._images.get(key)
        if known is not None:
            both = f"{known.source} and {image.source}" if known.source != image.source else f"{image.source}, twice"
            raise ImportingError(f"{image.name} is annotated in {both}; remove one of the two")
        self._images[key] = image

    def _note_on(self, why: str, count: int) -> str:
        where = self._left_out_in[why]
        return f"{plural(count, 'shape')} left out, the first in {where}: {why}"
