"""Work of ranks: the gradient of a step, and the start of a run; test_distributed.py runs it alone and by torchrun.

Every part draws from a seed of its own, so that none depends on those before it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.build import build_state, start_at_principal_directions
from trainer.config import LossWeights, load_config
from trainer.distributed import Ranks, joined_ranks, leave, rank_batches
from trainer.losses import criterion
from trainer.model.ecenet import build_model
from trainer.model.initialisation import stage_covariances
from trainer.sync_batchnorm import synchronise_batchnorm

BATCH = 4


def write_gradient(path: Path, ranks: Ranks) -> None:
    """Write the gradient of one step in float64, by the first rank."""
    torch.manual_seed(0)
    model = build_model("ecenet-lite0", 5).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    images = torch.randn(BATCH, 3, 64, 96, dtype=torch.float64)
    labels = torch.randint(0, 5, (BATCH, 64, 96))
    labels[0, 3:] = 255  # the first rank has far fewer labelled pixels than the second, and fewer classes
    network: nn.Module = model
    if ranks.world_size > 1:
        synchronise_batchnorm(model, ranks.device)
        network = DistributedDataParallel(model, forward_sync_buffers=False)
    (own,) = rank_batches(list(range(BATCH)), batch_size=BATCH, parts=1, ranks=ranks)
    losses = torch.stack(criterion(network(images[own]), labels[own], LossWeights(), None, ranks.mean))
    losses.sum().backward()
    total = ranks.mean(losses.detach())
    if ranks.is_first:
        gradients = {name: p.grad for name, p in model.named_parameters()}
        statistics = {name: b for name, b in model.named_buffers() if "running" in name}
        torch.save({"losses": total, **gradients, **statistics}, path)


def write_start(path: Path, name: str, ranks: Ranks) -> None:
    """Write the weights at the start of a run, by each rank, which draws numbers of its own before."""
    torch.manual_seed(0)
    config = load_config(Path("camvid_lite0"), [f"model.name={name}", "model.pretrained=none"])
    state = build_state(config, 5, steps_per_epoch=4, ranks=ranks, precision="fp32")
    images = torch.randn(2 * BATCH, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.randn(ranks.rank + 1)
    batches = [images[own] for own in rank_batches(list(range(8)), batch_size=BATCH, parts=1, ranks=ranks)]
    start_at_principal_directions(state, batches, ranks, seed=3)
    sums = [ranks.total(own) for own in stage_covariances(state.model.backbone, batches)]
    weights = {"model": state.model.state_dict(), "average": state.average.model.state_dict(), "sums": sums}
    torch.save(weights, path)


def main(folder: Path, names: list[str]) -> None:
    with joined_ranks("cpu") as ranks:
        rank = f"{ranks.world_size}-{ranks.rank}"
        write_gradient(folder / f"gradient-{rank}.pt", ranks)
        for name in names:
            write_start(folder / f"{name}-{rank}.pt", name, ranks)
        ranks.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    leave(0)
