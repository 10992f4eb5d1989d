"""Milliseconds of CPU time of every network of the comparison, one image at a time, in PyTorch and float32.

    python -m benchmarks.accuracy.speed --threads 1

The process's own CPU time counts, of all its threads, so other processes add little. The networks take turns, pass by
pass, and the fastest pass of each counts. Writes ``speed.json``, from which ``table`` takes its column.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.experiment import FULL_SIZE, head_commit
from benchmarks.accuracy.runs import SPEED
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.variants import VARIANTS, build_variant
from benchmarks.attention.run import processor
from trainer.model.ecenet import ECENet

NETWORKS = tuple(name for name, variant in VARIANTS.items() if variant.network(name) == name)
ROUNDS = 15
NUM_CLASSES = 11


@torch.inference_mode()
def fastest_passes(models: Mapping[str, ECENet], size: tuple[int, int], rounds: int) -> dict[str, float]:
    """CPU seconds of the fastest pass of each network over one image of (height, width)."""
    image = torch.zeros(1, 3, *size).to(memory_format=torch.channels_last)
    seconds = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, model in models.items():
            seconds[name] = min(seconds[name], _seconds(model, image))
    return seconds


def _seconds(model: ECENet, image: Tensor) -> float:
    start = time.process_time()
    model(image)
    return time.process_time() - start


def measure(names: Sequence[str], size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times of networks, and the conditions of measurement: the content of ``speed.json``."""
    models = {name: _network(name) for name in names}
    seconds = fastest_passes(models, size, rounds)
    return {
        "size": f"{size[0]}x{size[1]}",
        "classes": NUM_CLASSES,
        "milliseconds": {name: round(1000 * value, 1) for name, value in seconds.items()},
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "commit": head_commit(),
    }


def _network(name: str) -> ECENet:
    model = build_variant(name, NUM_CLASSES).eval()
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="passes of each network (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=SPEED, help="file to write (default: %(default)s)")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    result = measure(NETWORKS, FULL_SIZE, args.rounds)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rows = [[VARIANTS[name].title, f"{value:.0f}"] for name, value in result["milliseconds"].items()]
    print(markdown(["Network", f"ms at {result['size']}"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
