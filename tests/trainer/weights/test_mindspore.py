"""MindSpore's checkpoint format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.weights.mindspore import checkpoint_message, read_mindspore_checkpoint


def message(*values: tuple[str, tuple[int, ...], str, bytes]) -> bytes:
    checkpoint = checkpoint_message()()
    for tag, dims, kind, content in values:
        value = checkpoint.value.add(tag=tag)
        value.tensor.dims.extend(dims)
        value.tensor.tensor_type = kind
        value.tensor.tensor_content = content
    return bytes(checkpoint.SerializeToString())


def test_the_stored_checkpoint_equals_the_stored_arrays(reference_dir: Path) -> None:
    arrays = np.load(reference_dir / "ecenet_swin_tiny_scale.npz")
    state = read_mindspore_checkpoint(reference_dir / "ecenet_swin_tiny_scale.ckpt")
    expected = {name[6:] for name in arrays.files if name.startswith("state/")}
    assert len(state) == len(expected)
    name = "backbone.patch_embed.projection.weight"
    assert torch.equal(state[name], torch.from_numpy(arrays[f"state/{name}"]))


def test_slices_types_and_checksum(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    content = message(
        ("big", (2, 2), "Float32", rows[:2].tobytes()),
        ("half", (3,), "Float16", np.array([1, 2, 3], np.float16).tobytes()),
        ("big", (4, 2), "Float32", rows[2:].tobytes()),
        ("step", (), "Int32", np.array([7], np.int32).tobytes()),
    )
    path = tmp_path / "model.ckpt"
    path.write_bytes(content + b"crc_num" + b"\x00" * 10)
    state = read_mindspore_checkpoint(path)
    assert torch.equal(state["big"], torch.from_numpy(rows))
    assert state["half"].tolist() == [1, 2, 3]
    assert state["step"].tolist() == [7]


def test_unknown_types_and_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(message(("x", (1,), "Complex64", b"\0" * 8)))
    with pytest.raises(ValueError, match="'x' has type 'Complex64'"):
        read_mindspore_checkpoint(path)
    path.write_bytes(message(("x", (1,), "Float32", b"\0" * 3)))
    with pytest.raises(ValueError, match="3 bytes"):
        read_mindspore_checkpoint(path)
    for dims in ((2, 2), (-3,)):
        path.write_bytes(message(("x", dims, "Float32", b"\0" * 12)))
        with pytest.raises(ValueError, match=r"'x' has 3 values, which do not fill its dims \("):
            read_mindspore_checkpoint(path)
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="not a MindSpore checkpoint"):
        read_mindspore_checkpoint(path)
