"""The files of runs: whole or not there, never overwritten by another configuration, one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy.runs import RunError, is_finished, lock, read_run, run_path, write_run

CONFIG = {"variant": "fcn", "seed": 0, "steps": 100}


def test_a_run_is_finished_once_its_file_is_written(tmp_path: Path) -> None:
    path = run_path(tmp_path, "fcn", 0)
    assert not is_finished(path, CONFIG)
    write_run(path, {"config": CONFIG, "miou": 0.5})
    assert is_finished(path, CONFIG)
    assert read_run(path)["miou"] == 0.5
    assert [file.name for file in tmp_path.iterdir()] == ["fcn-seed0.json"]


def test_a_run_of_another_configuration_is_named_and_not_overwritten(tmp_path: Path) -> None:
    path = run_path(tmp_path, "fcn", 0)
    write_run(path, {"config": CONFIG})
    with pytest.raises(RunError, match=r"fcn-seed0.json holds .* \(steps 100, now 200\)"):
        is_finished(path, {**CONFIG, "steps": 200})


@pytest.mark.parametrize("text", ["", "[]", '{"miou": 0.5}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fcn-seed0.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"fcn-seed0\.json"):
        read_run(path)


def test_a_run_can_be_claimed_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "fcn-seed0.json"
    with lock(path) as first, lock(path) as second:
        assert (first, second) == (True, False)
    with lock(path) as again:
        assert again
    assert list(path.parent.iterdir()) == []


def test_a_claim_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "fcn-seed0.json"
    with pytest.raises(RuntimeError, match="stopped"), lock(path):
        raise RuntimeError("stopped")
    with lock(path) as free:
        assert free
