"""Label maps from stride-4 logits against PyTorch's resize + argmax, float32, on smooth random fields.

    python benchmarks/label_map.py --repeats 20

The border share is the part of the cells whose quad meets more than one class: the finer the fields, the larger.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import interpolate

from service.imaging.label_map import label_map

# Classes, cells and pixels of each case.
CASES = (
    (11, (90, 120), (360, 480)),
    (11, (135, 180), (1080, 1440)),
    (150, (128, 128), (512, 512)),
)


def smooth_logits(num_classes: int, cells: tuple[int, int], cells_per_region: int) -> torch.Tensor:
    """(K, h, w) float32 with regions of about ``cells_per_region`` cells a side."""
    generator = torch.Generator().manual_seed(0)
    knots = torch.randn(1, num_classes, *(side // cells_per_region + 2 for side in cells), generator=generator)
    return interpolate(knots, cells, mode="bicubic", align_corners=True)[0].contiguous()


def border_share(logits: torch.Tensor) -> float:
    """Part of the quads whose four cells do not agree."""
    winners = logits.argmax(0)
    neighbours = (winners[:-1, 1:], winners[1:, :-1], winners[1:, 1:])
    mixed = torch.stack([winners[:-1, :-1] != neighbour for neighbour in neighbours]).any(0)
    return mixed.float().mean().item()


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call in milliseconds, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def torch_ms(logits: torch.Tensor, size: tuple[int, int], threads: int, repeats: int) -> float:
    torch.set_num_threads(threads)
    return median_ms(lambda: interpolate(logits[None], size, mode="bilinear")[0].argmax(0).to(torch.uint8), repeats)


def main() -> None:
    """Print a row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=10, help="timed calls per figure, of which the median is printed"
    )
    parser.add_argument("--cells-per-region", type=int, default=8, help="side of a region in cells")
    options = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, medians of {options.repeats}")
    print("| K | cells | pixels | border | label_map | torch, 1 thread | torch, 2 threads |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for num_classes, cells, size in CASES:
        logits = smooth_logits(num_classes, cells, options.cells_per_region)
        ours = median_ms(partial(label_map, logits.numpy(), size), options.repeats)
        peers = [torch_ms(logits, size, threads, options.repeats) for threads in (1, 2)]
        columns = [f"{peer:.1f} ms ({peer / ours:.0f}x)" for peer in peers]
        shape = f"{num_classes} | {cells[0]}x{cells[1]} | {size[0]}x{size[1]} | {border_share(logits):.0%}"
        print(f"| {shape} | {ours:.2f} ms | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
