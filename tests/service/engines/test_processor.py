"""The processor's name with its vector instructions."""

from __future__ import annotations

from pathlib import Path

from service.engines.processor import processor


def test_a_processor_is_named_with_its_instructions(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert processor(tmp_path).endswith(" Fast One: avx2 avx512_vnni")
    assert processor(tmp_path / "absent").endswith(" unknown processor: no vector instructions known")
