"""The gradient of one step in float64, written by the first rank; test_distributed.py runs it alone and by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import LossWeights
from trainer.distributed import joined_ranks, leave, rank_batches
from trainer.losses import criterion
from trainer.model.ecenet import build_model
from trainer.sync_batchnorm import synchronise_batchnorm

BATCH = 4


def main(path: Path) -> None:
    with joined_ranks("cpu") as ranks:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
