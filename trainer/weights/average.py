"""``ecenet-train average``: the mean of the weights of several runs, one network (model soup, Wortsman et al. 2022).

Runs that trained on from the same weights, with other seeds or augmentations, end close enough to each other for the
mean of their weights to be a network too, and a better one on other images than most of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.model_directory.manifest import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

EPILOG = """example:
  ecenet-train average runs/a/best.pt runs/b/best.pt -o checkpoint.pt
  ecenet-evaluate checkpoint.pt --data data/camvid
"""
_ALIKE = ("config", "classes", "input_size")


class AverageError(ValueError):
    """Checkpoints that have no mean, or nowhere to write it; the text names the file and what differs."""


def average_weights(sources: Sequence[Path], output: Path) -> None:
    """Write the mean of the averaged weights and batch statistics of checkpoints of one network.

    The other entries are those of the first, without its metrics; ``averaged_from`` names all, and ``terms`` are those
    of any that has some.

    Raises:
        AverageError: Fewer than two checkpoints, ones of different networks, classes or input sizes, or an output that
            exists.
        CheckpointError: A file is not one of our checkpoints, or cannot be written.
    """
    from trainer.checkpoint import entries_of, model_config, read_checkpoint, save_checkpoint  # noqa: PLC0415
    from trainer.weights.bundled import inherited_terms  # noqa: PLC0415

    if len(sources) < 2:
        raise AverageError(f"a mean needs two or more checkpoints, got {len(sources)}")
    if output.exists():
        raise AverageError(f"{output} exists already; remove it or name another file")
    contents = [read_checkpoint(source) for source in sources]
    for source, content in zip(sources, contents, strict=True):
        _check_alike(sources[0], contents[0], source, content)
        _check_finite(source, content["weights"])
    weights = {name: _mean([content["weights"][name] for content in contents]) for name in contents[0]["weights"]}
    entries = entries_of(contents[0]) | {
        "metrics": {},
        "terms": next(filter(None, map(inherited_terms, sources, contents)), ""),
        "averaged_from": [{"file": source.name, "sha256": file_sha256(source)} for source in sources],
    }
    save_checkpoint(output, model_config(contents[0]["config"]), weights, **entries)


def _check_alike(first: Path, expected: dict[str, Any], source: Path, found: dict[str, Any]) -> None:
    for key in _ALIKE:
        if found.get(key) != expected.get(key):
            raise AverageError(
                f"{source} has another {key} than {first}: {found.get(key)!r}, not {expected.get(key)!r}"
            )

    shapes, own = ({name: tuple(tensor.shape) for name, tensor in it["weights"].items()} for it in (expected, found))
    if shapes != own:
        name = next(name for name in {**shapes, **own} if shapes.get(name) != own.get(name))
        raise AverageError(f"{source} has {name} of shape {own.get(name)}, {first} of {shapes.get(name)}")


def _check_finite(source: Path, weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise AverageError(f"{source} has values in {name} that are not finite; its training diverged")


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean in float64, in the type of the tensors; of counters the largest."""
    import torch  # noqa: PLC0415

    stacked = torch.stack(list(tensors))
    return stacked.double().mean(0).to(stacked.dtype) if stacked.is_floating_point() else stacked.amax(0)


def main(arguments: list[str]) -> int:
    """``ecenet-train average``; gives the exit status."""
    args = argument_parser().parse_args(arguments)
    try:
        average_weights(args.sources, args.output)
    except (ValueError, OSError) as error:
        print(f"ecenet-train average: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{args.output}: the mean of {len(args.sources)} checkpoints")  # noqa: T201
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Give the command's options and arguments."""
    parser = argparse.ArgumentParser(
        prog="ecenet-train average",
        description="Average the weights of runs that started from the same weights, into one checkpoint.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="checkpoint", help="two or more checkpoints of one network"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint to write")
    return parser
