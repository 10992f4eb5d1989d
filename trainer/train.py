"""``ecenet-train``: train ECENet, with checkpoints from which it resumes; look at data, runs and weights."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

import torch

from trainer.config import load_config
from trainer.distributed import leave
from trainer.run import train
from trainer.run_folder import has_checkpoint
from trainer.stopping import StoppedError
from trainer.training_loop import DivergedError

COMMANDS = {
    "average": ("trainer.weights.average", "the mean of the weights of several runs, as one network"),
    "data": ("trainer.data", "import annotations of other tools, or check a dataset"),
    "import": ("trainer.weights.import_released", "turn the authors' published weights into a checkpoint"),
    "report": ("trainer.report.command", "write the report of a run: curves, IoU, confusion, best and worst images"),
}
EXIT_STOPPED = 143  # as a shell states the end by SIGTERM

EPILOG = """example:
  ecenet-train camvid_lite0 --data data/camvid --output runs/camvid
  ecenet-train camvid_lite0 --data data/camvid --output runs/camvid --resume
  ecenet-train camvid_lite0 --data data/camvid --output runs/short --set schedule.epochs=10 --set data.jitter=0.2
  torchrun --nproc-per-node 4 -m trainer.train ade20k_swin_base --data data/ade20k --output runs/ade20k

other commands, each with its own --help:
""" + "\n".join(f"  ecenet-train {name:<8}{text}" for name, (_, text) in COMMANDS.items())


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[arguments[0]][0])
        return int(module.main(arguments[1:]))
    args = argument_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config = load_config(args.config, args.set)
        if args.print_config:
            print(config.as_toml())  # noqa: T201
            return 0
        if args.data is None or args.output is None:
            argument_parser().error("--data and --output are needed to train")
        if args.threads:
            torch.set_num_threads(args.threads)
        resume = args.resume or (args.auto_resume and has_checkpoint(args.output))
        train(config, args.data, args.output, resume=resume, accept_changes=args.accept_changes)
    except StoppedError as stopped:
        print(f"ecenet-train: {stopped}", file=sys.stderr)  # noqa: T201
        return EXIT_STOPPED
    except (DivergedError, ValueError, OSError) as error:
        print(f"ecenet-train: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train",
        description="Train ECENet; it leaves checkpoints from which --resume goes on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a TOML file, or the name of one that comes with the package")
    parser.add_argument("--data", type=Path, help="folder of the dataset")
    parser.add_argument("--output", type=Path, help="folder for checkpoints, log and report")
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    resume.add_argument("--auto-resume", action="store_true", help="go on if there is a checkpoint, else start")
    parser.add_argument("--accept-changes", action="store_true", help="resume although the configuration has changed")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--print-config", action="store_true", help="print the complete configuration and stop")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the network; default: all")
    return parser


if __name__ == "__main__":
    leave(main())
