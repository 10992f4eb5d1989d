"""Pairs of a folder's images and label files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

from trainer.datasets.errors import MissingFileError
from trainer.datasets.files import Files, Pair, by_key, match, read_list, visible_files
from trainer.datasets.folder_spec import FolderSpec, SplitFolders
from trainer.datasets.label_files import LOSSY_EXTENSIONS

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".heic", ".heif")
LABEL_EXTENSIONS = (".png", ".bmp", ".tif", ".tiff")


def find(spec: FolderSpec, folders: SplitFolders) -> Files:
    """The files of a split.

    Raises:
        DatasetError: A folder or list is missing, or two files of a kind share a name.
    """
    images = _below(folders.images, IMAGE_EXTENSIONS, spec.image_suffix)
    labels = _below(folders.labels, LABEL_EXTENSIONS, spec.label_suffix)
    if folders.labels != folders.images or spec.label_suffix:
        # These count as labels too, so that reading them reports why they are none.
        labels |= _without_better(_below(folders.labels, LOSSY_EXTENSIONS, spec.label_suffix), labels)
    both = images & labels
    if len(spec.image_suffix) > len(spec.label_suffix):
        labels -= both
    else:
        images -= both
    images_by_key = _by_key(folders.images, images, spec.image_suffix)
    labels_by_key = _by_key(folders.labels, labels, spec.label_suffix)
    if folders.list_file is None:
        return match(images_by_key, labels_by_key, folders.labels)
    keys = [_key(line, spec.image_suffix) for line in read_list(folders.list_file)]
    return _listed(keys, images_by_key, labels_by_key, folders)


def _without_better(lossy: Collection[Path], labels: Collection[Path]) -> set[Path]:
    sound = {path.with_suffix("") for path in labels}
    return {path for path in lossy if path.with_suffix("") not in sound}


def _listed(
    keys: Iterable[str], images: Mapping[str, Path], labels: Mapping[str, Path], folders: SplitFolders
) -> Files:
    pairs: list[Pair] = []
    missing: list[str] = []
    for key in keys:
        if key not in images:
            missing.append(f"{folders.list_file} lists {key}, but {folders.images} has no such image")
        elif key not in labels:
            missing.append(f"{images[key]} has no label in {folders.labels}")
        else:
            pairs.append((images[key], labels[key]))
    return Files(tuple(pairs), tuple(missing))


def _below(folder: Path, extensions: Collection[str], suffix: str) -> set[Path]:
    """The files anywhere below a folder with one of the extensions and the suffix before it; none that is hidden."""
    if not folder.is_dir():
        raise MissingFileError(f"{folder} does not exist")
    paths = visible_files(folder)
    return {path for path in paths if path.suffix.lower() in extensions and path.stem.endswith(suffix)}


def _by_key(folder: Path, paths: Iterable[Path], suffix: str) -> dict[str, Path]:
    return by_key((_key(path.relative_to(folder).as_posix(), suffix), path) for path in paths)


def _key(name: str, suffix: str) -> str:
    path = PurePosixPath(name)
    known = path.suffix.lower() in IMAGE_EXTENSIONS
    return str(path.with_suffix("") if known else path).removesuffix(suffix)
