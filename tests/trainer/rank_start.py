"""The start of a run by two ranks, each of which writes its weights; test_distributed.py runs it by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer.build import build_state, start_at_principal_directions
from trainer.config import load_config
from trainer.distributed import joined_ranks, leave, rank_batches
from trainer.model.initialisation import stage_covariances

BATCH = 4


def main(folder: Path, name: str) -> None:
    """Each rank has views of its own, and draws numbers of its own before it starts."""
    with joined_ranks("cpu") as ranks:
        config = load_config(Path("camvid_lite0"), [f"model.name={name}", "model.pretrained=none"])
        state = build_state(config, 5, steps_per_epoch=4, ranks=ranks, precision="fp32")
        images = torch.randn(2 * BATCH, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        torch.randn(ranks.rank + 1)
        batches = [images[own] for own in rank_batches(list(range(8)), batch_size=BATCH, parts=1, ranks=ranks)]
        start_at_principal_directions(state, batches, ranks, seed=3)
        sums = [ranks.total(own) for own in stage_covariances(state.model.backbone, batches)]
        weights = {"model": state.model.state_dict(), "average": state.average.model.state_dict(), "sums": sums}
        torch.save(weights, folder / f"{ranks.world_size}-{ranks.rank}.pt")
        ranks.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    leave(0)
