"""Work of ranks, alone and of two together: the gradient of a step, and the start of a run.

Every part draws from a seed of its own, so that none depends on those before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tests.support.forked import fork, wait_all
from tests.support.tiny_network import shrink
from trainer.build import build_state, start_at_principal_directions
from trainer.config import LossWeights, load_config
from trainer.distributed import Ranks, joined_ranks, rank_batches
from trainer.losses import criterion
from trainer.model.ecenet import build_model
from trainer.model.initialisation import stage_covariances
from trainer.model.timm_loader import import_timm
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


def write_all(folder: Path, names: Sequence[str], variables: dict[str, str]) -> None:
    """Do all the work as the rank that these variables describe, or alone without any."""
    os.environ.update(variables)
    torch.set_num_threads(1)
    shrink()
    with joined_ranks("cpu") as ranks:
        rank = f"{ranks.world_size}-{ranks.rank}"
        write_gradient(folder / f"gradient-{rank}.pt", ranks)
        for name in names:
            write_start(folder / f"{name}-{rank}.pt", name, ranks)
        ranks.wait()


def write_all_alone_and_by_two(folder: str, names: Sequence[str]) -> list[int]:
    """Fork one rank alone and two that find each other; gives their exit statuses.

    They are forks, which ``torchrun``'s are not, because the imports take longer than the work.
    """
    import_timm()
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    # As torchrun sets them.
    variables = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    ranks = [{}, *({**variables, "RANK": rank, "LOCAL_RANK": rank} for rank in "01")]
    return wait_all(*(fork(partial(write_all, Path(folder), names, rank)) for rank in ranks))
