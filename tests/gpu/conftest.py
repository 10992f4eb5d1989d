"""The bundled checkpoint as a model directory, fp32 and fp16, made once for the tests that need a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_export.__main__ import main
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.engine_store import STATE_VARIABLE


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Model directory with golden inputs; what builds engines in it signs them with a key of its own."""
    directory = tmp_path_factory.mktemp("models") / "ecenet-lite0-camvid"
    checkpoint = bundled_model_dir() / "checkpoint.pt"
    options = ["--precision", "fp32", "--precision", "fp16"]
    assert main(["onnx", str(checkpoint), "-o", str(directory), *options]) == 0
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STATE_VARIABLE, str(tmp_path_factory.mktemp("state")))
        yield directory
