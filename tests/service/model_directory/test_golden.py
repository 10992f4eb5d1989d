"""Golden inputs: what is kept, how rows are compared with it, and files that are none."""

from __future__ import annotations

import dataclasses
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.model_directory import golden as golden_module
from service.model_directory.agreement import Agreement
from service.model_directory.golden import GoldenError, make_golden, read_golden, write_golden
from service.model_directory.manifest import ClassInfo, FileInfo, GraphInfo, Manifest, file_sha256

SIZE = (32, 64)
LOGITS_GRAPH = GraphInfo("model.onnx", "0" * 64, SIZE)
LABELS_GRAPH = dataclasses.replace(LOGITS_GRAPH, output="labels", output_stride=1)
CLASSES = tuple(ClassInfo(index, f"class {index}", (index, 0, 0)) for index in range(3))


def random_logits(count: int = 2, classes: int = 3, size: tuple[int, int] = (8, 16)) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, classes, *size)).astype(np.float32)


def random_images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *SIZE, 3), np.uint8)


def manifest_of(directory: Path) -> Manifest:
    golden = FileInfo("golden.npz", file_sha256(directory / "golden.npz"))
    return Manifest("m", "1", "none", CLASSES, (LOGITS_GRAPH,), golden)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (2, *SIZE), np.uint8)
    golden = make_golden(random_images(), random_logits(), {1: labels})
    write_golden(tmp_path / "golden.npz", {SIZE: golden, (64, 64): golden})
    read = read_golden(tmp_path, manifest_of(tmp_path), SIZE)
    assert read.step == 1
    assert np.array_equal(read.images, golden.images)
    assert np.array_equal(read.logits, random_logits())
    assert set(read.labels) == {1, 4}
    assert np.array_equal(read.labels[1], labels)
    assert np.array_equal(read.labels[4], random_logits().argmax(1))


def test_rows_are_compared_in_the_order_of_their_images() -> None:
    logits = random_logits()
    golden = make_golden(random_images(), logits, {})
    assert golden.agreement(logits[[1, 0, 1]], LOGITS_GRAPH, [1, 0, 1]) == Agreement(1.0, 0.0)
    mixed = golden.agreement(logits[[0, 1]], LOGITS_GRAPH, [1, 0])
    assert mixed.equal_labels < 0.6
    assert mixed.max_logit_error == pytest.approx(np.abs(logits[0] - logits[1]).max())


def test_large_logits_are_thinned_out_and_all_labels_kept() -> None:
    logits = random_logits(1, 150, (40, 50))
    golden = make_golden(random_images(1), logits, {})
    assert golden.step == 3
    assert golden.logits.shape == (1, 150, 14, 17)
    graph = dataclasses.replace(LOGITS_GRAPH, input_size=(160, 200))
    assert golden.agreement(logits, graph, [0]) == Agreement(1.0, 0.0)
    wrong = logits.copy()
    wrong[0, 7, 1, 1] = 100  # between the cells that are kept, but a label
    assert golden.agreement(wrong, graph, [0]).equal_labels == pytest.approx(1 - 1 / 2000)


def test_nan_anywhere_is_no_agreement() -> None:
    logits = random_logits()
    golden = make_golden(random_images(), logits, {})
    logits[1, 2, 7, 15] = np.nan
    error = golden.agreement(logits, LOGITS_GRAPH, [0, 1]).max_logit_error
    assert error is not None
    assert math.isnan(error)


def test_labels_at_image_size_need_their_own() -> None:
    labels = np.zeros((2, *SIZE), np.uint8)
    golden = make_golden(random_images(), random_logits(), {1: labels})
    rows = labels.copy()
    rows[0, :16] = 1
    assert golden.agreement(rows, LABELS_GRAPH, [0, 1]) == Agreement(0.75)
    without = make_golden(random_images(), random_logits(), {})
    with pytest.raises(GoldenError, match="no labels at stride 1; export again"):
        without.agreement(rows, LABELS_GRAPH, [0, 1])


@pytest.mark.parametrize("rows", [np.zeros((2, 3, 8, 8), np.float32), np.zeros((1, 3, 8, 16), np.float32)])
def test_rows_of_another_shape_are_an_error(rows: np.ndarray) -> None:
    golden = make_golden(random_images(), random_logits(), {})
    with pytest.raises(ValueError, match=r"expected \(2, 3, 8, 16\)"):
        golden.agreement(rows, LOGITS_GRAPH, [0, 1])


def test_a_directory_without_golden_inputs_tells_what_to_do(tmp_path: Path) -> None:
    manifest = Manifest("m", "1", "none", CLASSES, (LOGITS_GRAPH,))
    with pytest.raises(GoldenError, match="no golden inputs; export the checkpoint again with ecenet-export onnx"):
        read_golden(tmp_path, manifest, SIZE)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off", None])
def test_files_that_are_no_golden_inputs_are_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    if content is None:  # an archive, but of another size
        write_golden(path, {(64, 64): make_golden(random_images(), random_logits(), {})})
    else:
        path.write_bytes(content)
    with pytest.raises(GoldenError, match=r"golden\.npz has no golden inputs of 32x64"):
        read_golden(tmp_path, manifest_of(tmp_path), SIZE)


def saved_arrays(**changed: np.ndarray) -> bytes:
    """The file of golden inputs with other arrays, by their names without the size."""
    arrays = {"images": random_images(), "labels/4": np.zeros((2, 8, 16), np.uint8), "logits": random_logits()}
    named: Any = {f"32x64/{name}": array for name, array in {**arrays, "step": np.array(1), **changed}.items()}
    stream = io.BytesIO()
    np.savez(stream, **named)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        (
            "images",
            np.zeros((2, 5, 5, 3), np.uint8),
            r"its images are uint8 \(2, 5, 5, 3\), expected uint8 \(n, 32, 64, 3\)",
        ),
        ("images", np.zeros((0, *SIZE, 3), np.uint8), r"its images are uint8 \(0, 32, 64, 3\)"),
        (
            "logits",
            np.zeros((1, 3, 8, 16), np.float32),
            r"its logits are float32 \(1, 3, 8, 16\), expected float32 \(2, K",
        ),
        (
            "labels/4",
            np.zeros((2, 8), np.uint8),
            r"its labels at stride 4 are uint8 \(2, 8\), expected uint8 \(2, h, w\)",
        ),
        ("step", np.array(0), "its step is 0, expected 1 or more"),
        ("step", np.array(math.inf), "cannot convert float infinity to integer"),
        ("step", np.array([1, 2]), "0-dimensional|size-1"),
    ],
)
def test_arrays_of_another_form_are_told(name: str, array: np.ndarray, reason: str, tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(saved_arrays(**{name: array}))
    with pytest.raises(GoldenError, match=f"has no golden inputs of 32x64: .*{reason}"):
        read_golden(tmp_path, manifest_of(tmp_path), SIZE)


@pytest.mark.parametrize(("place", "value"), [(0.5, 0xFF), (0.01, 0x28)])
def test_damaged_archives_are_told(place: float, value: int, tmp_path: Path) -> None:
    write_golden(tmp_path / "golden.npz", {SIZE: make_golden(random_images(), random_logits(), {})})
    content = bytearray((tmp_path / "golden.npz").read_bytes())
    start = int(len(content) * place)
    content[start : start + 64] = bytes([value]) * 64
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(GoldenError, match="has no golden inputs of 32x64"):
        read_golden(tmp_path, manifest_of(tmp_path), SIZE)


def test_an_unknown_compression_is_told(tmp_path: Path) -> None:
    content = bytearray(saved_arrays())
    start = content.index(b"PK\x01\x02")
    content[start + 10] = 99  # the method, in the index
    content[8] = 99  # and before the first file
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(GoldenError, match="compression method is not supported"):
        read_golden(tmp_path, manifest_of(tmp_path), SIZE)


def test_golden_inputs_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_golden(tmp_path / "golden.npz", {SIZE: make_golden(random_images(), random_logits(), {})})
    manifest = manifest_of(tmp_path)
    size = (tmp_path / "golden.npz").stat().st_size
    monkeypatch.setattr(golden_module, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(GoldenError, match=r"its arrays have \d+ bytes, at most 10000 are accepted"):
        read_golden(tmp_path, manifest, SIZE)
    monkeypatch.setattr(golden_module, "MAX_GOLDEN_BYTES", size - 1)
    with pytest.raises(GoldenError, match=rf"it has {size} bytes, at most {size - 1} are accepted"):
        read_golden(tmp_path, manifest, SIZE)


def test_a_pipe_in_place_of_golden_inputs_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "golden.npz")
    manifest = Manifest("m", "1", "none", CLASSES, (LOGITS_GRAPH,), FileInfo("golden.npz", "0" * 64))
    with pytest.raises(GoldenError, match="it is not a regular file"):
        read_golden(tmp_path, manifest, SIZE)
