"""The list of images to segment, with the path of each result; complete before anything is sent."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from service.client.options import Format

# What a folder is searched for; a file that is named itself may have any name.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
# Results are named after the whole name of their image, so that a.jpg and a.png keep apart, and formats too. LabelMe
# alone looks for a.json beside a.jpg.
ENDINGS: dict[Format, str] = {
    "labels": ".labels.png",
    "color": ".color.png",
    "overlay": ".overlay.png",
    "confidence": ".confidence.png",
    "cutout": ".cutout.png",
    "contours": ".contours.json",
    "labelme": ".json",
    "coco": ".coco.json",
    "labelstudio": ".labelstudio.json",
    "npy": ".npy",
    "json": ".json",
}
# A video is segmented only if it is named itself. The result is a folder of label maps, or a video of pictures.
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
VIDEO_ENDINGS: dict[Format, str] = {
    "labels": ".labels",
    "color": ".color.mp4",
    "overlay": ".overlay.mp4",
    "confidence": ".confidence.mp4",
}
_RESULT = re.compile(r"\.(?:labels|color|overlay|confidence|cutout)\.png$")
_VIDEO_RESULT = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES)))})\.labels$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Job:
    """An image and where its result goes.

    Attributes:
        source: The image.
        target: The result.
        name: Of the image, for the files of annotation tools.
    """

    source: Path
    target: Path
    name: str

    @property
    def is_video(self) -> bool:
        """True for a video, by its name."""
        return is_video(self.source)


@dataclass(frozen=True, slots=True)
class Failure:
    """A file or folder without a result, and the reason."""

    path: Path
    reason: str


def plan_jobs(inputs: Iterable[Path], output: Path, answer_format: Format) -> tuple[list[Job], list[Failure]]:
    """The jobs for files and, with everything below them, folders.

    The result of a file goes to ``output``; that of an image in a folder to the same place below ``output``. In folders
    hidden files and folders are skipped, such as macOS's ``._a.jpg``, and images that are results of this command. A
    path named twice is done once.

    Returns:
        Jobs, no two with the same target, and failures.
    """
    jobs: dict[Path, Job] = {}
    failures: list[Failure] = []
    for path in inputs:
        for found in _find(path, failures):
            below = found.relative_to(path) if path.is_dir() else Path(found.name)
            if is_video(found) and answer_format not in VIDEO_ENDINGS:
                failures.append(Failure(found, f"a video gives {', '.join(VIDEO_ENDINGS)}, not {answer_format}"))
                continue
            job = _job(found, below, output, answer_format)
            first = jobs.setdefault(job.target, job)
            if first.source.resolve() != found.resolve():
                reason = f"its result would be {job.target}, as that of {first.source}: give the folder of both"
                failures.append(Failure(found, reason))
    return list(jobs.values()), failures


def is_video(path: Path) -> bool:
    """True for a video, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _job(source: Path, below: Path, output: Path, answer_format: Format) -> Job:
    ending = (VIDEO_ENDINGS if is_video(source) else ENDINGS)[answer_format]
    if answer_format == "labelme":
        target = output / below.with_suffix(ending)
        # LabelMe looks for the image from its file on.
        return Job(source, target, Path(os.path.relpath(source, target.parent)).as_posix())
    return Job(source, output / below.with_name(below.name + ending), below.as_posix())


def _find(path: Path, failures: list[Failure]) -> Iterator[Path]:
    """The file itself, or the images below a folder in the order of their names."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        reason = "there is no such file or folder" if absent else f"it cannot be read: {error.strerror}"
        failures.append(Failure(path, reason))
        return
    if stat.S_ISREG(mode):
        yield path
        return
    if not stat.S_ISDIR(mode):  # to read a pipe or a device might never end
        failures.append(Failure(path, "it is neither a regular file nor a folder"))
        return
    before = len(failures)
    images = list(_search(path, failures))
    if not images and len(failures) == before:
        failures.append(Failure(path, "the folder holds no images"))
    yield from images


def _search(folder: Path, failures: list[Failure]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        failures.append(Failure(Path(error.filename), f"the folder cannot be read: {error.strerror}"))

    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in _shown(folders) if not _VIDEO_RESULT.search(name))
        for name in sorted(_shown(names)):
            path = Path(root, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and not _RESULT.search(name) and _may_be_a_file(path):
                yield path


def _shown(names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if not name.startswith("."))


def _may_be_a_file(path: Path) -> bool:
    """True for a file, and where that cannot be told: to read it then fails with the reason."""
    try:
        return path.is_file()
    except OSError:
        return True
