"""Instruments of the first steps of the head: ranks, scales, attention and gradients on one batch that never changes.

    python -m benchmarks.accuracy.instruments --data DATA/camvid --steps 100 --every 20 --threads 1 --output steps.json

Trains one variant by the recipe of the comparison and measures before the first step and after every ``--every`` steps.
Prints a table; ``--output`` writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.recipe import Recipe, open_half_resolution
from benchmarks.accuracy.table import markdown
from benchmarks.accuracy.training import epoch_batches, initial_state, train_by
from benchmarks.accuracy.variants import HEADS, VARIANTS
from trainer.arguments import positive
from trainer.config import LossWeights
from trainer.datasets import DatasetError, SegmentationDataset
from trainer.losses import criterion, present_classes
from trainer.model.decode_head import HeadOutput, class_presence
from trainer.model.ecenet import ECENet
from trainer.model.feature_reconstruction import FeatureReconstruction
from trainer.model.initialisation import covariance_sums
from trainer.prediction.pytorch import normalise
from trainer.training_loop import Batch, DivergedError
from trainer.weights.pretrained import PretrainedError

PROBE_EPOCH = 1_000_000  # whose views no training reaches
OWN = tuple(name for name in VARIANTS if name not in HEADS or name == "ecenet")


def effective_rank(feature: Tensor) -> float:
    """The exponential of the entropy of the eigenvalues of the channels' covariance, 1 to C, for (B, C, H, W)."""
    sums = covariance_sums(feature)
    mean = sums[-1, :-1] / sums[-1, -1]
    values = torch.linalg.eigvalsh(sums[:-1, :-1] / sums[-1, -1] - torch.outer(mean, mean)).clamp(min=0)
    shares = values / values.sum().clamp(min=1e-30)
    return math.exp(float(-torch.xlogy(shares, shares).sum()))


def variance_inside_cells(feature: Tensor, factor: int) -> float:
    """The share of a feature's variance inside cells of ``factor`` pixels, 0..1, for (B, C, H, W)."""
    height, width = (side // factor * factor for side in feature.shape[2:])
    feature = feature[..., :height, :width]
    means = F.avg_pool2d(feature, factor).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    inside = (feature - means).square().sum((0, 2, 3))
    total = (feature - feature.mean((0, 2, 3), keepdim=True)).square().sum((0, 2, 3))
    return float((inside.sum() / total.sum().clamp(min=1e-30)).clamp(max=1))


def attention_entropy(query: Tensor, key: Tensor, num_heads: int) -> float:
    """The mean entropy of the attention over the classes per its maximum, 0..1; 1 is uniform.

    Args:
        query: (B, C, H, W).
        key: (B, K, C).
        num_heads: Heads that share the channels.
    """
    q = query.flatten(2).reshape(len(query), num_heads, query.shape[1] // num_heads, -1).transpose(2, 3)  # (B, h, N, d)
    k = key.reshape(*key.shape[:2], num_heads, -1).transpose(1, 2)  # (B, h, K, d)
    shares = (-(q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(-1)
    return float(-torch.xlogy(shares, shares).sum(-1).mean()) / math.log(key.shape[1])


def measure(
    model: ECENet, batch: Batch, weights: LossWeights, class_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """All figures of a network on a batch, in training mode; weights, statistics, modes and gradients stay.

    Returns:
        Per instrument its figures by stage, class or module.
    """
    images, labels = batch
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    try:
        with _recorded(model.train()) as seen, torch.random.fork_rng():
            torch.manual_seed(0)
            output = cast(HeadOutput, model(normalise(images, model.config)))
            losses = criterion(output, labels.long(), weights)
            norms = _gradient_norms(model, torch.stack(losses).sum())
        figures = _figures(model, {name: value.detach() for name, value in seen.items()})
        present = present_classes(labels.long(), len(class_names))
        return figures | {"presence": _presence(output, present, class_names), "gradient norm": norms}
    finally:
        model.train(was_training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


@contextmanager
def _recorded(model: ECENet) -> Iterator[dict[str, Tensor]]:
    """The outputs of the modules that the instruments look at, by module name, as the network runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    head = model.decode_head
    watched: dict[str, nn.Module] = {f"fr{i}": module for i, module in enumerate(head.feature_reconstruction)}
    watched |= {f"gate{i}": module.gate for i, module in _reconstructions(model)}
    watched |= {f"up{i}": module for i, module in enumerate(head.upsample)}
    for i, attention in enumerate(head.semantics_attention):
        watched |= {f"query{i}": attention.query, f"key{i}": attention.key_value}  # type: ignore[dict-item]
    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    hooks.append(model.backbone.register_forward_hook(lambda _m, _i, out: seen.update(_stages(out))))
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


def _reconstructions(model: ECENet) -> list[tuple[int, FeatureReconstruction]]:
    modules = enumerate(model.decode_head.feature_reconstruction)
    return [(index, module) for index, module in modules if isinstance(module, FeatureReconstruction)]


def _stages(features: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"stage{i}": feature for i, feature in enumerate(features)}


def _figures(model: ECENet, seen: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    stages = range(len(model.decode_head.feature_reconstruction))
    heads = model.config.num_heads
    rank = {f"stage {i}": effective_rank(seen[f"stage{i}"]) for i in stages}
    return {
        "effective rank": rank | {f"FR {i}": effective_rank(seen[f"fr{i}"]) for i in stages},
        "variance inside cells": {
            f"stage {i + 1}": variance_inside_cells(seen[f"up{i}"], 2 ** (i + 1))
            for i in range(len(model.decode_head.upsample))
        },
        "attention entropy": {
            f"stage {i}": attention_entropy(seen[f"query{i}"], seen[f"key{i}"].chunk(2, -1)[0], heads)
            for i in range(len(model.decode_head.semantics_attention))
        },
        "gate std": {f"stage {i}": float(seen[f"gate{i}"].std()) for i, _ in _reconstructions(model)},
    }


def _presence(output: HeadOutput, present: Tensor, class_names: Sequence[str]) -> dict[str, float]:
    """Mean ``p`` of each class over the images that show it; classes that none shows are left out."""
    shares = class_presence(output.presence_logits.detach())
    return {
        name: float(shares[present[:, index], index].mean())
        for index, name in enumerate(class_names)
        if present[:, index].any()
    }


def _gradient_norms(model: ECENet, loss: Tensor) -> dict[str, float]:
    parts = {"backbone": model.backbone} | dict(model.decode_head.named_children())
    own = {name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()}
    flat = [parameter for parameters in own.values() for parameter in parameters]
    gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    norms = {}
    for name, parameters in own.items():
        squares = [g.square().sum() for g in (next(gradients) for _ in parameters) if g is not None]
        if squares:
            norms[name] = float(torch.stack(squares).sum().sqrt())
    return norms


def follow(
    variant: str, dataset: SegmentationDataset, recipe: Recipe, *, seed: int, every: int
) -> list[dict[str, Any]]:
    """Train a variant and measure it; an entry per measurement, ``step`` and the figures of ``measure``."""
    state = initial_state(variant, dataset, recipe, seed)
    loss, names = VARIANTS[variant].loss, [info.name for info in dataset.classes]
    (batch,) = epoch_batches(dataset, recipe, seed, PROBE_EPOCH, slice(1))
    entries = [{"step": 0, **measure(state.model, batch, loss, names)}]
    entries.extend(
        {"step": state.step, **measure(state.model, batch, loss, names)}
        for _ in train_by(state, dataset, variant, recipe, seed)
        if state.step % every == 0 or state.step == recipe.steps
    )
    return entries


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """A row per figure, a column per measurement, in Markdown."""
    header = ["Figure", *(f"step {entry['step']}" for entry in entries)]
    rows = [
        [f"{instrument}, {part}", *(f"{entry[instrument].get(part, math.nan):.3g}" for entry in entries)]
        for instrument, figures in entries[0].items()
        if instrument != "step"
        for part in figures
    ]
    return markdown(header, rows)


def main(arguments: list[str] | None = None) -> int:
    """The command line; gives the exit status."""
    args = _parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = replace(Recipe(args.steps), head_lr_multiple=args.head_lr_multiple)
    try:
        dataset = open_half_resolution(args.data, "train")
        entries = follow(args.variant, dataset, recipe, seed=args.seed, every=args.every)
        if args.output:
            args.output.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    except (DatasetError, PretrainedError, DivergedError, OSError) as error:
        print(f"instruments: {error}", file=sys.stderr)
        return 1
    print(table(entries))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="instruments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--variant", choices=OWN, default="ecenet", help="ECENet or an ablation (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=100, help="steps to train (default: %(default)s)")
    parser.add_argument("--every", type=positive, default=20, help="steps between measurements (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--head-lr-multiple", type=float, default=8.0, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: all")
    parser.add_argument("--output", type=Path, help="file of JSON to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
