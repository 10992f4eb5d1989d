"""Ranks: how they share an epoch out, and two processes under torchrun against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.forked import fresh
from tests.support.limits import HANG_S
from tests.trainer.rank_work import write_all_alone_and_by_two
from trainer.config import ConfigError
from trainer.distributed import Ranks, choose_device, default_workers, rank_batches
from trainer.train import main

CPU = torch.device("cpu")
STARTED = ("ecenet-lite0", "ecenet-swin-tiny")


def torchrun(*command: str) -> None:
    """Run a command as two processes that find each other on a free port of the loopback interface."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command], capture_output=True, text=True, env=environment, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("device", "cpus", "local_ranks", "workers"),
    [("cpu", 64, 1, 1), ("cuda", 16, 1, 15), ("cuda", 64, 1, 16), ("cuda", 64, 8, 7), ("cuda", 2, 4, 1)],
)
def test_the_workers_of_a_rank_follow_the_cpus_that_feed_a_gpu(
    device: str, cpus: int, local_ranks: int, workers: int
) -> None:
    assert default_workers(torch.device(device), cpus=cpus, local_ranks=local_ranks) == workers


def test_one_rank_takes_the_order_as_it_is() -> None:
    batches = rank_batches(list(range(10)), batch_size=4, parts=1, ranks=Ranks(0, 1, CPU))
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]  # 8 and 9 fill no step


def test_ranks_and_parts_share_each_step_out() -> None:
    first, second = (rank_batches(list(range(16)), batch_size=8, parts=2, ranks=Ranks(r, 2, CPU)) for r in range(2))
    assert first == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert second == [[2, 3], [6, 7], [10, 11], [14, 15]]


@pytest.mark.parametrize(("batch_size", "parts", "world_size"), [(8, 3, 1), (8, 1, 3), (2, 2, 2)])
def test_a_batch_that_cannot_be_shared_out_is_refused(batch_size: int, parts: int, world_size: int) -> None:
    with pytest.raises(ConfigError, match=rf"batch_size {batch_size} is not .* {parts} x {world_size} ranks"):
        rank_batches(list(range(16)), batch_size=batch_size, parts=parts, ranks=Ranks(0, world_size, CPU))


def test_a_rank_alone_adds_nothing() -> None:
    ranks = Ranks(0, 1, CPU)
    values = torch.tensor([1.0, 2.0])
    assert ranks.total(values).tolist() == ranks.mean(values).tolist() == [1.0, 2.0]
    ranks.wait()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    assert choose_device("auto", 0) == CPU
    with pytest.raises(ConfigError, match="needs its own GPU, but the node has 0"):
        choose_device("cuda", 0)


@pytest.fixture(scope="module")
def rank_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that one rank alone and two together have written, by part, number of ranks and rank."""
    folder = tmp_path_factory.mktemp("ranks")
    assert fresh(write_all_alone_and_by_two, str(folder), STARTED) == [0, 0, 0]
    return folder


def test_two_ranks_have_the_gradient_of_one(rank_work: Path) -> None:
    one, two = (torch.load(rank_work / f"gradient-{ranks}-0.pt", weights_only=True) for ranks in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-6, atol=1e-7), name


@pytest.mark.parametrize("name", STARTED)
def test_two_ranks_start_alike_from_the_features_of_both(name: str, rank_work: Path) -> None:
    alone, first, second = (
        torch.load(rank_work / f"{name}-{rank}.pt", weights_only=True) for rank in ("1-0", "2-0", "2-1")
    )
    for part in ("model", "average"):
        assert first[part].keys() == alone[part].keys()
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    for both, one in zip(first["sums"], alone["sums"], strict=True):
        torch.testing.assert_close(both, one, rtol=1e-3, atol=1e-2 * float(one.diagonal().mean()))
    rows, expected = (
        weights["model"]["decode_head.feature_reconstruction.0.intrinsic.0.weight"] for weights in (first, alone)
    )
    kept = rows.flatten(1) @ expected.flatten(1).T  # the same space, up to rounding
    assert float(kept.square().sum()) == pytest.approx(len(rows), rel=1e-3)


def test_two_ranks_train_and_evaluate_as_one(tiny_camvid: Path, tmp_path: Path) -> None:
    """Three val images on two ranks: one rank has more of them than the other."""
    for folder in ("val", "valannot"):
        (tiny_camvid / folder / "02.png").write_bytes((tiny_camvid / folder / "00.png").read_bytes())
    settings = {
        "model.pretrained": "none",
        "model.principal_start": "false",  # too few positions: which directions come last is left to rounding
        "model.dropout": "0.0",
        "data.input_size": "[64, 64]",
        "data.crop_size": "[64, 64]",
        "schedule.epochs": "2",
        "schedule.batch_size": "4",
        "schedule.lr": "1e-5",  # AdamW takes rounding for a direction; larger steps let it grow
        "schedule.precision": "fp32",  # bf16 rounds a rank's part of the batch otherwise than the whole
        "runtime.evaluate_every": "1",
        "runtime.workers": "0",
        "runtime.report": "false",
    }
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    arguments = ["camvid_lite0", "--data", str(tiny_camvid), "--threads", "1", *options, "--output"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    torchrun("-m", "trainer.train", *arguments, str(tmp_path / "two"))
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    one, two = ([json.loads(line) for line in lines] for lines in logs)
    assert len(one) == len(two) == 2
    for expected, actual in zip(one, two, strict=True):
        for name in ("loss_cross_entropy", "loss_auxiliary", "loss_diversity", "lr"):
            assert actual[name] == pytest.approx(expected[name], rel=2e-3), name
        assert actual["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=0.02)


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}])
def test_process_says_everything_before_it_leaves(variables: dict[str, str]) -> None:
    program = """
import sys
from trainer.distributed import leave
print("to standard output", end="")
print("to standard error", end="", file=sys.stderr)
leave(7)
"""
    environment = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"} | variables
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "to standard output", "to standard error")
