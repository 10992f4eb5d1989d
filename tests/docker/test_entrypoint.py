"""The entry of the images: options go to the service, ``selfcheck`` and ``tensorrt`` to the export's commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).resolve().parents[2] / "docker" / "entrypoint.sh"
PRINT = '#!/bin/sh\necho "$$ $(basename "$0") $*"\n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "ecenet-serve "),
        (["--port", "8001"], "ecenet-serve --port 8001"),
        (["selfcheck", "--report", "/out"], "ecenet-export selfcheck --report /out"),
        (["tensorrt", "--precision", "int8"], "ecenet-export tensorrt --precision int8"),
    ],
)
def test_the_command_gets_all_arguments_in_the_same_process(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    for name in ("ecenet-serve", "ecenet-export"):
        (tmp_path / name).write_text(PRINT)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen([ENTRYPOINT, *arguments], env=environment, stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    assert printed == f"{process.pid} {expected}\n"
