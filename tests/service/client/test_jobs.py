"""Images that arguments name, and the paths of their results."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from service.client.jobs import ENDINGS, Failure, Job, plan_jobs
from service.client.options import Format

OUT = Path("out")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes empty files below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> None:
        for name in names:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


def targets(jobs: list[Job]) -> dict[str, str]:
    return {str(job.source): str(job.target) for job in jobs}


def test_folders_are_searched_and_keep_their_shape(tree: Callable[..., None]) -> None:
    tree("photos/b.JPG", "photos/a.png", "photos/notes.txt", "photos/x/y/c.webp", "d")
    jobs, failures = plan_jobs([Path("photos"), Path("d")], OUT, "labels")
    assert failures == []
    assert list(targets(jobs).items()) == [
        ("photos/a.png", "out/a.png.labels.png"),
        ("photos/b.JPG", "out/b.JPG.labels.png"),
        ("photos/x/y/c.webp", "out/x/y/c.webp.labels.png"),
        ("d", "out/d.labels.png"),
    ]


def test_hidden_files_and_folders_are_skipped_unless_they_are_named(tree: Callable[..., None]) -> None:
    tree("photos/a.jpg", "photos/._a.jpg", "photos/.cache/b.jpg", "photos/.Trash/._c.jpg")
    jobs, failures = plan_jobs([Path("photos")], OUT, "labels")
    assert (targets(jobs), failures) == ({"photos/a.jpg": "out/a.jpg.labels.png"}, [])
    jobs, failures = plan_jobs([Path("photos/.cache"), Path("photos/._a.jpg")], OUT, "labels")
    assert failures == []
    assert targets(jobs) == {
        "photos/.cache/b.jpg": "out/b.jpg.labels.png",
        "photos/._a.jpg": "out/._a.jpg.labels.png",
    }


def test_images_of_one_stem_and_formats_of_one_image_keep_apart(tree: Callable[..., None]) -> None:
    tree("a.png", "a.jpg")
    formats = [form for form in get_args(Format) if form != "labelme"]
    names = [job.target.name for form in formats for job in plan_jobs([Path("a.png"), Path("a.jpg")], OUT, form)[0]]
    assert len(names) == len(set(names)) == 2 * (len(ENDINGS) - 1)
    assert {"a.png.labels.png", "a.jpg.labels.png", "a.jpg.npy", "a.png.contours.json", "a.png.json"} < set(names)


def test_labelme_finds_its_files_beside_the_images_and_the_images_from_its_files(tree: Callable[..., None]) -> None:
    tree("photos/a.png", "photos/x/b.jpg", "photos/x/b.png")
    jobs, failures = plan_jobs([Path("photos")], Path("photos"), "labelme")
    assert targets(jobs) == {"photos/a.png": "photos/a.json", "photos/x/b.jpg": "photos/x/b.json"}
    assert [job.name for job in jobs] == ["a.png", "b.jpg"]
    assert [failure.path for failure in failures] == [Path("photos/x/b.png")]
    jobs, _ = plan_jobs([Path("photos/x/b.jpg")], OUT, "labelme")
    assert [(str(job.target), job.name) for job in jobs] == [("out/b.json", "../photos/x/b.jpg")]


def test_other_tools_get_the_place_of_an_image_below_its_folder(tree: Callable[..., None]) -> None:
    tree("photos/x/b.jpg")
    (job,), _ = plan_jobs([Path("photos")], OUT, "coco")
    assert (str(job.target), job.name) == ("out/x/b.jpg.coco.json", "x/b.jpg")


def test_results_are_not_taken_for_images(tree: Callable[..., None]) -> None:
    tree("photos/a.png", "photos/a.png.labels.png", "photos/out/a.png.overlay.png", "photos/a.png.json")
    tree("photos/drive.MP4.labels/000000.png")
    jobs, failures = plan_jobs([Path("photos")], Path("photos"), "labels")
    assert targets(jobs) == {"photos/a.png": "photos/a.png.labels.png"}
    assert failures == []


def test_what_is_named_twice_is_done_once(tree: Callable[..., None]) -> None:
    tree("photos/a.png")
    jobs, failures = plan_jobs([Path("photos"), Path("photos/a.png"), Path("./photos")], OUT, "json")
    assert targets(jobs) == {"photos/a.png": "out/a.png.json"}
    assert failures == []


def test_two_images_for_one_result_are_told(tree: Callable[..., None]) -> None:
    tree("x/a.png", "y/a.png")
    jobs, failures = plan_jobs([Path("x/a.png"), Path("y/a.png")], OUT, "labels")
    assert targets(jobs) == {"x/a.png": "out/a.png.labels.png"}
    reason = "its result would be out/a.png.labels.png, as that of x/a.png: give the folder of both"
    assert failures == [Failure(Path("y/a.png"), reason)]


def test_what_is_not_there_is_told(tree: Callable[..., None]) -> None:
    tree("empty/notes.txt", "a.png")
    jobs, failures = plan_jobs([Path("absent.png"), Path("empty"), Path("a.png")], OUT, "labels")
    assert targets(jobs) == {"a.png": "out/a.png.labels.png"}
    assert failures == [
        Failure(Path("absent.png"), "there is no such file or folder"),
        Failure(Path("empty"), "the folder holds no images"),
    ]


def test_what_is_no_file_and_cannot_be_one_is_told(tree: Callable[..., None]) -> None:
    tree("a.png")
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    long = Path("n" * 256)
    jobs, failures = plan_jobs([Path("pipe.png"), Path("loop.png"), long, Path("a.png")], OUT, "labels")
    assert targets(jobs) == {"a.png": "out/a.png.labels.png"}
    assert failures == [
        Failure(Path("pipe.png"), "it is neither a regular file nor a folder"),
        Failure(Path("loop.png"), "it cannot be read: Too many levels of symbolic links"),
        Failure(long, "it cannot be read: File name too long"),
    ]


def test_an_image_that_cannot_be_looked_at_is_not_left_out(
    tree: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("photos/a.png", "photos/notes.txt")

    def is_file(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", is_file)  # the tests may run as root, who reads everything
    jobs, failures = plan_jobs([Path("photos")], OUT, "labels")
    assert (targets(jobs), failures) == ({"photos/a.png": "out/a.png.labels.png"}, [])


def test_a_folder_that_cannot_be_read_is_told(tree: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    tree("photos/a.png", "photos/locked/b.png")
    scan = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the tests may run as root, who reads everything
    jobs, failures = plan_jobs([Path("photos")], OUT, "labels")
    assert targets(jobs) == {"photos/a.png": "out/a.png.labels.png"}
    assert failures == [Failure(Path("photos/locked"), "the folder cannot be read: Permission denied")]
