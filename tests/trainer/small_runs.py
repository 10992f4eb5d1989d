"""Short runs from the command line, in this process or in one of its own, and what they leave."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.support.limits import HANG_S
from tests.support.tiny_network import shrink
from trainer.checkpoint import read_checkpoint
from trainer.progress import Progress
from trainer.train import main

SMALL = {
    "model.pretrained": "none",
    "data.input_size": "[64, 64]",
    "data.crop_size": "[32, 64]",
    "schedule.epochs": "2",
    "schedule.batch_size": "2",
    "runtime.evaluate_every": "2",
    "runtime.workers": "0",
    "runtime.report": "false",
    "runtime.tensorboard": "false",
    "runtime.timed_steps": "0",
}


def arguments(data: Path, output: Path, *extra: str, **changes: str) -> list[str]:
    settings = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return ["camvid_lite0", "--data", str(data), "--output", str(output), "--threads", "1", *options, *extra]


PROGRAM = """
from tests.support.tiny_network import shrink
from trainer.distributed import leave
from trainer.train import main
shrink()
leave(main())
"""


def start(data: Path, output: Path, **changes: str) -> subprocess.Popen[str]:
    """A run in a process, and a group, of its own."""
    command = [sys.executable, "-c", PROGRAM, *arguments(data, output, **changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + HANG_S
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.005)


def signal_at(step: int, number: int, patch: pytest.MonkeyPatch) -> None:
    """Have this process get a signal when it has counted so many steps."""
    count, steps = Progress.__call__, itertools.count(1)

    def counted(self: Progress, *values: object) -> None:
        count(self, *values)  # type: ignore[arg-type]
        if next(steps) == step:
            signal.raise_signal(number)

    patch.setattr(Progress, "__call__", counted)


def train_until_killed(options: list[str], step: int) -> None:
    """Train in this process, which a step kills."""
    shrink()
    with pytest.MonkeyPatch.context() as patch:
        signal_at(step, signal.SIGKILL, patch)
        main(options)


def assert_equal_weights(first: Path, second: Path) -> None:
    expected, actual = (read_checkpoint(path)["weights"] for path in (first, second))
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def read_log(run: Path) -> list[dict[str, object]]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]
