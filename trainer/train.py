"""``ecenet-train``: train ECENet, with checkpoints from which it resumes; look at data, runs and weights."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

from service.model_directory.extras import MissingExtraError, needing_extra
from trainer.config import CONFIG_DIR, ConfigError, TrainConfig, load_config

COMMANDS = {
    "average": ("trainer.weights.average", "the mean of the weights of several runs, as one network"),
    "data": ("trainer.data", "import annotations of other tools, or check a dataset"),
    "import": ("trainer.weights.import_command", "turn the authors' published weights into a checkpoint"),
    "report": ("trainer.report.command", "write the report of a run, or of several side by side"),
}
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
            return _train(args)
    except MissingExtraError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return _failed("stopped before the first checkpoint", EXIT_INTERRUPTED)


def _other_command(name: str, *arguments: str) -> int:
    with needing_extra("train"):
        module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(list(arguments)))


def _train(args: argparse.Namespace) -> int:
    from trainer.run import train  # noqa: PLC0415
    from trainer.run_folder import has_checkpoint  # noqa: PLC0415
    from trainer.stopping import StoppedError  # noqa: PLC0415
    from trainer.training_loop import DivergedError  # noqa: PLC0415

    try:
        data, output = _folders(args)
        resume = args.resume or (args.auto_resume and output is not None and has_checkpoint(output))
        config = _configuration(args, output if resume else None)
        if args.print_config:
            print(config.as_toml())  # noqa: T201
            return 0
        if data is None or output is None:
            argument_parser().error("--data and --output are needed to train by a configuration")
        _use_threads(args.threads)
        train(config, data, output, resume=resume, accept_changes=args.accept_changes)
    except StoppedError as stopped:
        return _failed(stopped, stopped.exit_status)
    except (DivergedError, ValueError, OSError) as error:
        return _failed(error, 1)
    return 0


def _folders(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The folders of the dataset and of the run."""
    if not _is_data(args.config):
        return args.data, args.output
    if args.data is not None:
        raise ConfigError(f"{args.config} is a folder of data already; leave --data out, or name a configuration")
    return args.config, args.output or Path("runs") / args.config.resolve().name


def _configuration(args: argparse.Namespace, resumed: Path | None) -> TrainConfig:
    """The configuration that is named, or the one that fits a folder of data; a run goes on by its own."""
    from trainer.own_data import own_config  # noqa: PLC0415
    from trainer.run_folder import CONFIG  # noqa: PLC0415

    patience = [] if args.patience is None else [f"runtime.patience={args.patience}"]
    overrides = [*args.set, *patience]
    if not _is_data(args.config):
        return load_config(args.config, overrides)
    if resumed is not None and (resumed / CONFIG).is_file():
        return load_config(resumed / CONFIG, overrides)
    return own_config(args.config, overrides)


def _is_data(path: Path) -> bool:
    """Tell a folder of data from a configuration, whose shipped names come first."""
    return path.is_dir() and not (CONFIG_DIR / f"{path}.toml").is_file()


def _use_threads(count: int) -> None:
    import torch  # noqa: PLC0415

    if count:
        torch.set_num_threads(count)


def _failed(reason: object, status: int) -> int:
    print(f"ecenet-train: {reason}", file=sys.stderr)  # noqa: T201
    return status


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train",
        description="Train ECENet; it leaves checkpoints from which --resume goes on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="DATA|CONFIG",
        help="a folder of data, whose size decides on the settings; or a TOML file, or the name of one that comes with "
        "the package",
    )
    parser.add_argument("--data", type=Path, help="folder of the dataset, for a configuration")
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for checkpoints, log and report (default: runs/NAME of the data)"
    )
    resume = parser.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    resume.add_argument("--auto-resume", action="store_true", help="go on if there is a checkpoint, else start")
    parser.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="end after N evaluations without a better mIoU, 0 for never (default: the configuration's, mostly 10)",
    )
    parser.add_argument("--accept-changes", action="store_true", help="resume although the configuration has changed")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one setting")
    parser.add_argument("--print-config", action="store_true", help="print the complete configuration and stop")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the network; default: all")
    return parser


if __name__ == "__main__":
    from trainer.distributed import leave

    leave(main())
