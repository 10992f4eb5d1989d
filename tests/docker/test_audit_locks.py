"""The audit of the locks against a stored database, and what it says when there is none."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from docker import audit_locks


def entry(name: str, versions: list[str], **others: Any) -> dict[str, Any]:
    package = {"package": {"ecosystem": "PyPI", "name": name}, "versions": versions}
    return {"id": f"PYSEC-{name}", "affected": [package], **others}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.cpu.lock"
    path.write_text(
        "# by uv\npillow==13.0.0 \\\n    --hash=sha256:aa\npython-multipart==0.0.20 ; python_version > '3'\n"
    )
    return path


def database(tmp_path: Path, *entries: dict[str, Any]) -> str:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, content in enumerate(entries):
            archive.writestr(f"{number}.json", json.dumps(content))
    return str(path)


def test_a_pinned_version_that_is_affected_is_told(
    tmp_path: Path, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = database(
        tmp_path,
        entry("Python_Multipart", ["0.0.19", "0.0.20"]),
        entry("pillow", ["12.0.0"]),
        entry("pillow", ["13.0.0"], withdrawn="2026-01-01T00:00:00Z"),
        {"id": "MAL-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "pillow"}}]},
    )
    assert audit_locks.main(["--database", stored, str(lock)]) == audit_locks.FOUND
    assert capsys.readouterr().out == (
        "requirements.cpu.lock: 2 packages, 1 known weaknesses\n  python-multipart 0.0.20: PYSEC-Python_Multipart\n"
    )


def test_no_weakness_is_status_0(tmp_path: Path, lock: Path) -> None:
    assert audit_locks.main(["--database", database(tmp_path, entry("pillow", ["1"])), str(lock)]) == 0


@pytest.mark.parametrize("content", [None, b"no zip", b"PK\5\6" + bytes(18)])
def test_a_database_that_cannot_be_read_audits_nothing(
    content: bytes | None, tmp_path: Path, lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.zip"
    if content is not None:
        path.write_bytes(content)
    assert audit_locks.main(["--database", str(path), str(lock)]) == audit_locks.NOT_AUDITED
    assert "requirements.cpu.lock: NOT AUDITED" in capsys.readouterr().out


ANSWERS = {
    "known": (
        '{"dependencies": [{"name": "pillow", "version": "13.0.0", "vulns": [{"id": "CVE-1"}]}]}',
        1, "pillow 13.0.0: CVE-1",
    ),
    "unknown": (
        '{"dependencies": [{"name": "pillow", "skip_reason": "not on PyPI"}]}',
        3, "it does not know 1 of 1 packages: pillow",
    ),
    "unreachable": ("", 3, "no route to pypi.org"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_of_pip_audit_is_told(
    name: str, tmp_path: Path, lock: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, status, told = ANSWERS[name]
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{answer}'\necho 'no route to pypi.org' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert audit_locks.main([str(lock)]) == status
    assert told in capsys.readouterr().out
