"""The files of an export: archives, images by the names that tools give them, and splits by the names of folders."""

from __future__ import annotations

import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from trainer.datasets.errors import MissingFileError, UnreadableFileError
from trainer.datasets.files import visible_files
from trainer.datasets.folder_files import IMAGE_EXTENSIONS
from trainer.datasets.importing.errors import ImportingError
from trainer.datasets.split_names import folder_split

ARCHIVES = (".zip", ".tar", ".tgz", ".gz")
MAX_UNPACKED_BYTES = 1 << 38
"""Largest unpacked size of an archive: 256 GiB."""


@contextmanager
def opened_export(path: Path) -> Iterator[Path]:
    """The export as a file or folder; an archive is unpacked for as long as it is used.

    Raises:
        DatasetError: It does not exist, or the archive is broken, too large, or leads out of itself.
    """
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; it should be the export, a file or a folder")
    if path.is_dir() or path.suffix.lower() not in ARCHIVES:
        yield path
        return
    with TemporaryDirectory(prefix="export-") as temporary:
        folder = Path(temporary).resolve() / path.name  # alone in another, as images beside an export count too
        folder.mkdir()
        try:
            _unpack(path, folder)
        except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError) as error:
            why = in_terms_of(path, folder, str(error).partition("\n")[0].rstrip(":"))
            raise UnreadableFileError(f"{path} cannot be unpacked: {why}") from error
        yield folder


def in_terms_of(export: Path, opened: Path, text: str) -> str:
    """A text that names members of an archive, not the files that they were unpacked to: ``export.zip/a.json``."""
    return text.replace(str(opened), str(export))


def _unpack(path: Path, folder: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_unpacked(path, sum(entry.file_size for entry in archive.infolist()))
            archive.extractall(folder)  # noqa: S202 - zipfile keeps members inside
    else:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            _check_end(tar, members)
            _check_unpacked(path, sum(entry.size for entry in members))
            tar.extractall(folder, filter="data")


def _check_end(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> None:
    """Raise an error where an archive ends without its mark: ``tarfile`` takes a broken header for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        last = f"behind {members[-1].name}" if members else "at its start"
        raise tarfile.TarError(f"it is damaged or cut off {last}")


def _check_unpacked(path: Path, total: int) -> None:
    if total > MAX_UNPACKED_BYTES:
        raise ImportingError(f"{path} unpacks to {total:,} bytes, at most {MAX_UNPACKED_BYTES:,} are accepted")


def files_below(folder: Path, extensions: Iterable[str]) -> list[Path]:
    """The files anywhere below a folder that have one of the extensions, in order; none that is hidden."""
    kinds = tuple(extensions)
    return sorted(path for path in visible_files(folder) if path.name.lower().endswith(kinds))


class ImageFiles:
    """The images of an export, found by what annotation files call them.

    Args:
        roots: Folders that hold them, at any depth.

    Attributes:
        elsewhere: References below a folder whose image is in a folder of another name, and that image.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots
        self.elsewhere: list[tuple[str, Path]] = []
        self.paths = [path for root in roots for path in files_below(root, IMAGE_EXTENSIONS)]
        self._by_name: dict[str, list[Path]] = {}
        for path in dict.fromkeys(path.resolve() for path in self.paths):
            self._by_name.setdefault(_plain(path.name), []).append(path)

    def find(self, reference: str, near: Path) -> Path | None:
        """The file of a reference, which may be relative, a path of another machine, or a name alone.

        An annotation file comes from elsewhere, so that it reaches no file outside of the export.

        Args:
            reference: E.g. ``images/a.jpg``, or ``C:\\photos\\a.jpg``.
            near: Folder of the file that refers to it.

        Raises:
            ImportingError: Several files fit equally well.
        """
        wanted = reference.replace("\\", "/")
        inside = (path for path in self._places(wanted, near) if self._holds(path, near))
        return next(filter(Path.is_file, inside), None) or self._by_end(wanted)

    def named(self, reference: str, near: Path) -> Path | None:
        """The file that a reference leads to from the folder of its annotation file, inside of the export alone."""
        path = Path(os.path.normpath(near / reference.replace("\\", "/")))
        return path if self._holds(path, near) and path.is_file() else None

    def is_outside(self, reference: str, near: Path) -> bool:
        """Check whether a reference leads to a file, but to one in none of the export's folders."""
        return any(path.is_file() for path in self._places(reference.replace("\\", "/"), near))

    def _places(self, wanted: str, near: Path) -> Iterator[Path]:
        bases = (near, near / "images", near.parent / "images", *self.roots, *(root / "images" for root in self.roots))
        return (Path(os.path.normpath(base / wanted)) for base in bases)

    def _holds(self, path: Path, near: Path) -> bool:
        """Check whether a path stays in a folder of the export, or in ``images`` beside that of the annotation."""
        folders = (*self.roots, near.parent / "images")
        return any(_absolute(path).is_relative_to(_absolute(folder)) for folder in folders)

    def _by_end(self, wanted: str) -> Path | None:
        """The file whose path ends as the reference does, over as many folders as possible."""
        parts = _parts(wanted)
        found = self._by_name.get(parts[-1], []) if parts else []
        shared = [_shared_end(_parts(path.as_posix()), parts) for path in found]
        best = [path for path, length in zip(found, shared, strict=True) if length == max(shared)]
        if len(best) > 1:
            raise ImportingError(f"{wanted!r} may be {best[0]} or {best[1]}; keep their folders as the tool knows them")
        if best and len(parts) > 1 and max(shared) == 1 and not re.match("/|[A-Za-z]+:", wanted):
            self.elsewhere.append((wanted, best[0]))
        return best[0] if best else None


def missing_image(reference: str, source: Path, *, is_outside: bool = False) -> str:
    """The sentence for a missing image that an annotation file names."""
    where = "outside of the export" if is_outside else "not there"
    return f"{source} names the image {reference}, which is {where}"


def path_split(name: str) -> str | None:
    """The split that a folder of a path names: train, val or test."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[:-1]
    return next((split for part in parts if (split := folder_split(part))), None)


def relative_name(path: Path, roots: Iterable[Path]) -> str:
    """A path below the first of the roots that holds it; its name if none does."""
    resolved = path.resolve()
    for root in roots:
        if resolved.is_relative_to(root.resolve()):
            return resolved.relative_to(root.resolve()).as_posix()
    return path.name


def _absolute(path: Path) -> Path:
    """A path without ``..``; links stay, as they may lead to images elsewhere."""
    return Path(os.path.normpath(path.absolute()))


def _parts(path: str) -> list[str]:
    return [_plain(part) for part in path.split("/") if part not in ("", ".", "..")]


def _plain(name: str) -> str:
    """A name without differences in case or in how accents are coded; macOS takes them apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _shared_end(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
