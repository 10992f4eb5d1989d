"""The tools of reliability: mutants come again by their seed, faults are told, attacks leave answers right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reliability import attack, fuzz
from tests.support.honest import FILES
from tests.support.hostile import ATTACKS


def test_mutants_of_a_seed_come_again_and_differ_by_seed() -> None:
    first, again, other = (list(fuzz.cases(seed, 40)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({case.data for case in first}) > 35
    assert {case.target for case in fuzz.cases(3, 200)} == set(fuzz.READERS)


def test_no_mutant_gets_past_the_decoders(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fuzz.main(["--mutants", "400", "--seed", "5", "--faults", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == []
    assert sum(report["outcomes"].values()) == 400
    assert report["outcomes"]["image accepted"] > 10
    assert report["outcomes"]["image NotAnImage"] > 50


def test_faults_are_kept_and_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes) -> None:
        raise KeyError("a bug")

    monkeypatch.setitem(fuzz.READERS, "image", broken)
    assert fuzz.main(["--mutants", "5", "--seed", "0", "--faults", str(tmp_path)]) == 1
    report = json.loads(capsys.readouterr().out)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == len(report["faults"]) > 0
    assert "KeyError: 'a bug'" in report["faults"][0]
    case = next(case for case in fuzz.cases(0, 5) if f"0-{case.number}" == kept[0])
    assert (tmp_path / kept[0]).read_bytes() == case.data


def test_every_format_is_mutated_and_attacked() -> None:
    assert {name.split()[0] for name in FILES} == {"jpeg", "png", "gif", "bmp", "webp", "tiff", "avif"}
    assert set(ATTACKS) < set(attack.attacks(""))
    assert {name.split()[0] for name in attack.attacks("")} > {"jpeg", "png", "gif", "bmp", "webp", "tiff", "json"}


def test_answers_stay_right_under_attack(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("jpeg scans", "tiff tile", "json semicolons", "pipelining", "header without end", "refused body")
    chosen = {name: attack.attacks("")[name] for name in names}
    monkeypatch.setattr(attack, "attacks", lambda only: {name: run for name, run in chosen.items() if only in name})
    # Times are for `make attack` on a quiet machine: here the answers count.
    bounds = ["--seconds", "1", "--most-times", "10000", "--health-ms", "30000"]
    assert attack.main([*bounds, "--", "--model-dir", str(tiny_model_dir), "--engine", "onnxruntime"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("idle: ")
    assert [line[:6] for line in lines[1:]] == ["held  "] * len(names)


def test_a_slow_answer_under_attack_is_told(tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = ["--only", "jpeg blank", "--seconds", "0.5", "--most-times", "0"]
    assert attack.main([*bounds, "--", "--model-dir", str(tiny_model_dir), "--engine", "onnxruntime"]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith("BROKEN jpeg blank")
