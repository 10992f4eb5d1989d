"""TensorBoard's events, read back by its own reader."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from service.model_directory.manifest import ClassInfo
from trainer.config import ConfigError
from trainer.datasets import IGNORE_INDEX
from trainer.metrics import Counts
from trainer.report.examples import Example
from trainer.tensorboard import TensorBoard

CLASSES = (ClassInfo(0, "road", (128, 64, 128)), ClassInfo(1, "sky", (70, 130, 180)), ClassInfo(2, "never", (9, 9, 9)))
SCORES = Counts(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]], np.int64)).scores()


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def points(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def write_steps(board: TensorBoard, steps: range, factor: float = 1.0) -> None:
    for step in steps:
        losses = {"cross_entropy": factor * step, "auxiliary": 0.5}
        board.step(step, losses, lr=1e-3 / step, grad_norm=2.0 * step, images_per_s=7.5)


def test_steps_come_back_with_the_same_values(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, every=2)
    write_steps(board, range(1, 7))
    board.step(8, {"cross_entropy": 1.0}, lr=1e-4, grad_norm=None, images_per_s=8.0)
    board.close()
    events = read(tmp_path)
    assert points(events, "loss/cross_entropy") == [(2, 2.0), (4, 4.0), (6, 6.0), (8, 1.0)]
    assert points(events, "loss/auxiliary") == [(2, 0.5), (4, 0.5), (6, 0.5)]
    assert points(events, "schedule/grad_norm") == [(2, 4.0), (4, 8.0), (6, 12.0)]
    assert dict(points(events, "schedule/lr")) == pytest.approx({2: 5e-4, 4: 2.5e-4, 6: 1e-3 / 6, 8: 1e-4})
    assert points(events, "speed/images_per_s") == [(2, 7.5), (4, 7.5), (6, 7.5), (8, 8.0)]


def test_an_evaluation_gives_the_scores_and_every_class_that_occurs(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    board.evaluation(40, SCORES, CLASSES)
    board.close()
    events = read(tmp_path)
    expected = {
        "val/miou": (3 / 4 + 4 / 5) / 2,
        "val/accuracy": 7 / 8,
        "val/mean_accuracy": (3 / 4 + 1) / 2,
        "iou/road": 3 / 4,
        "iou/sky": 4 / 5,
    }
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, value in expected.items():
        assert dict(points(events, tag)) == pytest.approx({40: value})


def test_samples_are_image_label_and_prediction_side_by_side(tmp_path: Path) -> None:
    image = np.full((4, 6, 3), (10, 200, 30), np.uint8)
    labels, prediction = np.zeros((4, 6), np.uint8), np.ones((4, 6), np.uint8)
    labels[0] = IGNORE_INDEX
    board = TensorBoard(tmp_path)
    board.evaluation(40, SCORES, CLASSES, [Example(5, 0.5, image, labels, prediction)])
    board.close()
    (event,) = read(tmp_path).Images("sample/5")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 40
    assert picture.shape == (4, 18, 3)
    assert (picture[:, :6] == (10, 200, 30)).all()
    assert (picture[0, 6:12] == 0).all()
    assert (picture[1:, 6:12] == CLASSES[0].color).all()
    assert (picture[:, 12:] == CLASSES[1].color).all()


def test_after_resuming_no_step_appears_twice(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, every=1)
    write_steps(first, range(1, 6))
    first.evaluation(3, SCORES, CLASSES)
    first.evaluation(5, SCORES, CLASSES)
    first.close()
    second = TensorBoard(tmp_path, resume_step=3, every=1)
    write_steps(second, range(4, 8), factor=10.0)
    second.close()
    events = read(tmp_path)
    assert points(events, "loss/cross_entropy") == [(1, 1), (2, 2), (3, 3), (4, 40), (5, 50), (6, 60), (7, 70)]
    assert [step for step, _ in points(events, "val/miou")] == [3]


def test_a_run_begun_anew_voids_what_lies_in_its_folder(tmp_path: Path) -> None:
    for factor in (1.0, 2.0):
        board = TensorBoard(tmp_path, every=1)
        write_steps(board, range(1, 3), factor)
        board.close()
    assert points(read(tmp_path), "loss/cross_entropy") == [(1, 2.0), (2, 4.0)]


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="the package tensorboard is not installed"):
        TensorBoard(tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_every_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every is 0 steps, expected at least 1"):
        TensorBoard(tmp_path, every=0)


def test_events_that_cannot_be_written_are_told_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    board = TensorBoard(tmp_path / "events")
    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    with pytest.raises(OSError, match=f"^events for TensorBoard cannot be written to {tmp_path}/events: "):
        board.evaluation(1, SCORES, CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr(SummaryWriter, "close", fail)
        board.close()
    board.close()
