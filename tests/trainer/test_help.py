"""--help answers at once: no command imports PyTorch, or anything else that takes its time, to say what it does."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("torch", "timm", "onnx", "onnxruntime", "matplotlib", "tensorboard")
CODE = """
import importlib, sys
module, *arguments = sys.argv[1:]
try:
    importlib.import_module(module).main([*arguments, "--help"])
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *[name for name in {slow!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "command",
    [
        "trainer.train",
        "trainer.train average",
        "trainer.train data",
        "trainer.train data import",
        "trainer.train data check",
        "trainer.train import",
        "trainer.train report",
        "trainer.evaluate",
        "model_export.__main__",
        "model_export.__main__ model",
        "model_export.__main__ verify",
    ],
)
def test_help_imports_nothing_slow(command: str) -> None:
    code = CODE.format(slow=SLOW)
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
