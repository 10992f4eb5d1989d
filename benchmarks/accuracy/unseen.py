"""A sequence of CamVid that training does not see: its other images are ``train``, its own ``val``.

    python -m benchmarks.accuracy.unseen DATA/camvid DATA/camvid-unseen --sequence 0006R0

CamVid's own val split, in SegNet's selection, is 6.7 seconds of a drive whose other minutes are in the training split,
so it says little about other streets. The output is a folder of links in CamVid's layout, to train and evaluate on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.datasets import CamVid, DatasetError
from trainer.datasets.files import Pair


def sequence_of(pair: Pair) -> str:
    """The drive that an image was taken on: its name up to the first underscore."""
    return pair[0].stem.partition("_")[0]


def hold_out(data: Path, sequence: str, output: Path) -> dict[str, int]:
    """Link CamVid's training split into two; gives how many images each has.

    Raises:
        DatasetError: The split cannot be read, or has no image of the sequence, or none of another.
        OSError: ``output`` exists, or cannot be written.
    """
    pairs = CamVid(data, "train").pairs
    splits = {
        "train": [pair for pair in pairs if sequence_of(pair) != sequence],
        "val": [pair for pair in pairs if sequence_of(pair) == sequence],
    }
    if not all(splits.values()):
        names = ", ".join(sorted({sequence_of(pair) for pair in pairs}))
        raise DatasetError(f"{data} cannot be split at sequence {sequence!r}; its sequences are {names}")
    output.mkdir(parents=True)
    for split, chosen in splits.items():
        for folder, files in zip((split, f"{split}annot"), zip(*chosen, strict=True), strict=True):
            (output / folder).mkdir()
            for path in files:
                (output / folder / path.name).symlink_to(path.resolve())
    return {split: len(chosen) for split, chosen in splits.items()}


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    try:
        counts = hold_out(args.data, args.sequence, args.output)
    except (DatasetError, OSError) as error:
        print(f"unseen: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {counts['train']} images to train on, {counts['val']} of {args.sequence} to evaluate on")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unseen", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of CamVid")
    parser.add_argument("output", type=Path, help="folder to write; must not exist")
    parser.add_argument("--sequence", default="0006R0", help="name of the drive (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
