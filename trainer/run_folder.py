"""The folder of a training run: its checkpoints, of which the last few and the best stay, and its log.

step-00000540.pt    checkpoints of the last steps, each with all that resuming needs
last.pt             a link to the newest of them
best.pt             the averaged weights with the highest mIoU on val
log.jsonl           one object per epoch
config.toml         the complete configuration
data.txt            the folder of the dataset
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.model_directory.files import write_whole
from trainer.checkpoint import save_checkpoint
from trainer.config import ConfigError, TrainConfig
from trainer.model.ecenet import ModelConfig

LAST, BEST, LOG, CONFIG, DATA = "last.pt", "best.pt", "log.jsonl", "config.toml", "data.txt"
_PATTERN = "step-*.pt"


class RunFolder:
    """The files of one run, written by its first rank.

    Args:
        path: The folder; made with the first file.
        keep: How many of the last checkpoints stay.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep

    def check(self, *, resume: bool) -> None:
        """Refuse to write over a run, or to resume from none.

        Raises:
            ConfigError: The folder holds a run already and ``resume`` is off, or the other way round.
        """
        last = self.path / LAST
        if last.exists() and not resume:
            raise ConfigError(f"{last} exists already; add --resume")
        if resume and not last.exists():
            raise ConfigError(f"there is no {last} to resume")

    def begin(self, config: TrainConfig, data: Path, log: Sequence[Mapping[str, Any]]) -> None:
        """Make the folder, and write configuration, data, and a resumed run's log so far."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / CONFIG, config.as_toml().encode())
        write_whole(self.path / DATA, f"{data.resolve()}\n".encode())
        self.write_log(log)

    def save(
        self, config: ModelConfig, weights: Mapping[str, Any], training: Mapping[str, Any], entries: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint that a run resumes from, point ``last.pt`` to it, and remove the oldest ones.

        Raises:
            CheckpointError: It cannot be written; the checkpoints before it stay.
        """
        path = self.path / f"step-{entries['steps_done']:08}.pt"
        save_checkpoint(path, config, weights, training=training, **entries)
        link = self.path / (LAST + ".part")
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(self.path / LAST)
        done = sorted(file for file in self.path.glob(_PATTERN) if file.name <= path.name)  # not of a longer run before
        for old in done[: -self.keep]:
            old.unlink()

    def save_best(self, config: ModelConfig, weights: Mapping[str, Any], entries: Mapping[str, Any]) -> None:
        """Write the best weights so far, without what resuming needs."""
        save_checkpoint(self.path / BEST, config, weights, **entries)

    def write_log(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Write the log of all epochs so far, atomically."""
        write_whole(self.path / LOG, "".join(json.dumps(entry) + "\n" for entry in log).encode())


def data_of(run: Path) -> Path | None:
    """The folder of the dataset that a run was trained on, or None where it does not state one."""
    file = run / DATA
    return Path(file.read_text(encoding="utf-8").strip()) if file.is_file() else None


def has_checkpoint(path: Path) -> bool:
    """True for a folder of a run that can be resumed."""
    return (path / LAST).exists()
