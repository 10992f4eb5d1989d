"""--help answers at once: no command imports anything that takes its time to say what it does."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = (
    *("torch", "timm", "onnx", "onnxruntime", "openvino", "tensorrt", "matplotlib", "tensorboard"),
    *("numpy", "PIL", "av", "httpx", "fastapi", "uvicorn", "pydantic"),
)
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
        "model_export.__main__ onnx",
        "model_export.__main__ quantize",
        "model_export.__main__ selfcheck",
        "model_export.__main__ inspect",
        "model_export.__main__ verify",
        "model_export.__main__ tensorrt",
        "service.client.cli",
    ],
)
def test_help_imports_nothing_slow(command: str) -> None:
    assert loaded(command, SLOW) == []


def test_help_of_the_server_needs_its_settings_alone() -> None:
    assert loaded("service.__main__", SLOW) == ["pydantic"]


def loaded(command: str, modules: tuple[str, ...]) -> list[str]:
    """Those of the modules that are loaded when ``--help`` has answered."""
    code = CODE.format(slow=modules)
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()
