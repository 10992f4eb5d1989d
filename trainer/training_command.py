"""A training as the command line asks for it: its folders, its configuration, its exit status."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch

from trainer.config import CONFIG_DIR, ConfigError, TrainConfig, load_config, shipped_names
from trainer.datasets import DATASETS
from trainer.datasets.errors import unknown_name
from trainer.model.ecenet import named_config
from trainer.own_data import own_config
from trainer.run import train
from trainer.run_folder import CONFIG, has_checkpoint
from trainer.stopping import StoppedError
from trainer.training_loop import DivergedError

# What PyTorch puts before the sentence of an error in a process that prepares batches.
_WORKER_TRACE = re.compile(r"^Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback.*\n[\w.]+: ", re.DOTALL)


def run(args: argparse.Namespace) -> int:
    """Train, or print the configuration; gives the exit status."""
    try:
        data, output = _folders(args)
        resume = args.resume or (args.auto_resume and output is not None and has_checkpoint(output))
        config = _configuration(args, output if resume else None)
        check_names(config)
        if args.print_config:
            print(config.as_toml())  # noqa: T201
            return 0
        if data is None or output is None:
            raise ConfigError("--data and --output are needed to train by a configuration")
        if args.threads:
            torch.set_num_threads(args.threads)
        train(config, data, output, resume=resume, accept_changes=args.accept_changes)
    except StoppedError as stopped:
        return _failed(stopped, stopped.exit_status)
    except (DivergedError, ValueError, OSError) as error:
        return _failed(error, 1)
    return 0


def check_names(config: TrainConfig) -> None:
    """Refuse names of networks and data sets that there are not, before anything is printed or read.

    Raises:
        ValueError: A name is unknown; the text lists those that there are.
    """
    named_config(config.model.name, num_classes=2)
    sources = enumerate(config.data.sources or ())
    names = {"data.dataset": config.data.dataset} | {f"data.sources[{n}].dataset": it.dataset for n, it in sources}
    for key, name in names.items():
        if name not in DATASETS:
            raise unknown_name(key, name, DATASETS)


def _folders(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The folders of the dataset and of the run."""
    if not _is_data(args.config):
        if not args.config.exists() and args.config.name not in shipped_names().split(", "):
            names = f"the configurations of the package are {shipped_names()}"
            raise ConfigError(f"{args.config} is neither a folder of data nor a configuration; {names}")
        return args.data, args.output
    if args.data is not None:
        raise ConfigError(f"{args.config} is a folder of data already; leave --data out, or name a configuration")
    return args.config, args.output or Path("runs") / args.config.resolve().name


def _configuration(args: argparse.Namespace, resumed: Path | None) -> TrainConfig:
    """The configuration that is named, or the one that fits a folder of data; a resumed run keeps its own."""
    patience = [] if args.patience is None else [f"runtime.patience={args.patience}"]
    overrides = [*args.set, *patience]
    if not _is_data(args.config):
        return load_config(args.config, overrides)
    if resumed is not None and (resumed / CONFIG).is_file():
        return load_config(resumed / CONFIG, overrides)
    return own_config(args.config, overrides)


def _is_data(path: Path) -> bool:
    """True for a folder of data, False for a configuration, whose shipped names come first."""
    return path.is_dir() and not (CONFIG_DIR / f"{path}.toml").is_file()


def _failed(reason: object, status: int) -> int:
    text = _WORKER_TRACE.sub("", str(reason)).rstrip()
    print(f"ecenet-train: {text}", file=sys.stderr)  # noqa: T201
    return status
