"""A type that the commands share, and the directory that they take by default."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


def default_directory() -> Path:
    """The model directory of ``ECENET_MODEL_DIR``, else the bundled one."""
    from service.model_directory.bundled import bundled_model_dir  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    return Settings().model_dir or bundled_model_dir()
