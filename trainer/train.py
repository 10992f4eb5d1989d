"""``ecenet-train``: train ECENet, with checkpoints from which it resumes; look at data, runs and weights."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

from service.model_directory.extras import MissingExtraError, needing_extra

COMMANDS = {
    "average": ("trainer.weights.average", "the mean of the weights of several runs, as one network"),
    "data": ("trainer.data", "import annotations of other tools, or check a dataset"),
    "import": ("trainer.weights.import_command", "turn the authors' published weights into a checkpoint"),
    "report": ("trainer.report.command", "write the report of a run, or of several side by side"),
}
MAX_THREADS = 4096
EXIT_INTERRUPTED = 130  # as a shell states the end by Ctrl-C

EPILOG = """example:
  ecenet-train my-data
  ecenet-train my-data --resume
  ecenet-train camvid_lite0 --data data/camvid --output runs/camvid
  ecenet-train camvid_lite0 --data data/camvid --output runs/short --set schedule.epochs=10 --set data.jitter=0.2
  torchrun --nproc-per-node 4 -m trainer.train ade20k_swin_base --data data/ade20k --output runs/ade20k

other commands, each with its own --help:
""" + "\n".join(f"  ecenet-train {name:<8}{text}" for name, (_, text) in COMMANDS.items())


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in COMMANDS:
            return _other_command(*arguments)
        args = argument_parser().parse_args(arguments)
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        with needing_extra("train"):
            from trainer.training_command import run  # noqa: PLC0415  --help should not wait for PyTorch

            return run(args)
    except MissingExtraError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("stopped", EXIT_INTERRUPTED)


def _other_command(name: str, *arguments: str) -> int:
    with needing_extra("train"):
        module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(list(arguments)))


def thread_count(text: str) -> int:
    """A number of threads from the command line; 0 for all."""
    count = int(text)
    if not 0 <= count <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is not within 0..{MAX_THREADS}")
    return count


def _failed(reason: object, status: int) -> int:
    print(f"ecenet-train: {reason}", file=sys.stderr)  # noqa: T201
    return status


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train",
        description="Train ECENet, and write checkpoints from which --resume continues.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="DATA|CONFIG",
        help="a folder of data, from which the settings follow; or a TOML file, or the name of one that comes with "
        "the package",
    )
    parser.add_argument("--data", type=Path, help="folder of the dataset, for a configuration")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for checkpoints, log and report (default: runs/NAME of the data)"
    )
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    resume.add_argument("--auto-resume", action="store_true", help="continue if there is a checkpoint, else start")
    parser.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="end after N evaluations without a better mIoU, 0 for never (default: the configuration's, mostly 10)",
    )
    parser.add_argument("--accept-changes", action="store_true", help="resume although the configuration has changed")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--print-config", action="store_true", help="print the complete configuration and stop")
    parser.add_argument("--threads", type=thread_count, default=0, help="CPU threads of the network; default: all")
    return parser


if __name__ == "__main__":
    from trainer.distributed import leave

    leave(main())
