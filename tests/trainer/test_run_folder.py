"""The folder of a run: which checkpoints stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.checkpoint import read_entries
from trainer.model.ecenet import ECENet
from trainer.run_folder import RunFolder


@pytest.mark.parametrize(("keep", "kept"), [(1, [3]), (2, [2, 3]), (5, [1, 2, 3])])
def test_the_last_checkpoints_stay_and_those_of_a_longer_run_before_remove_none(
    keep: int, kept: list[int], tiny_model: ECENet, tmp_path: Path
) -> None:
    """As if ``last.pt`` had been removed to start anew, or a run killed before its newest checkpoint had the link."""
    (tmp_path / "step-00000016.pt").touch()
    folder = RunFolder(tmp_path, keep)
    for step in (1, 2, 3):
        folder.save(tiny_model.config, tiny_model.state_dict(), {}, {"steps_done": step})
        assert read_entries(tmp_path / "last.pt")["steps_done"] == step
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{step:08}.pt" for step in (*kept, 16)]
