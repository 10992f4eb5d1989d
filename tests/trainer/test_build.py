"""The start of a run: a new head gets one, weights of a file keep what they bring, options off change nothing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.build import (
    build_model,
    build_state,
    check_trainable,
    load_training_state,
    start_at_principal_directions,
    training_state,
)
from trainer.checkpoint import save_checkpoint
from trainer.config import ConfigError, TrainConfig, load_config
from trainer.distributed import Ranks
from trainer.model.ecenet import ECENet, named_config
from trainer.model.initialisation import principal_directions, stage_covariances
from trainer.run import Run, prepare, train
from trainer.training_loop import TrainingState
from trainer.weights.released_keys import DERIVED
from trainer.weights.released_names import released_name

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = [
    "model.pretrained=none",
    "schedule.precision=fp32",
    "runtime.tensorboard=false",
    "runtime.report=false",
    "runtime.timed_steps=0",
]
VIEWS = [
    "data.input_size=[32,64]",
    "data.crop_size=[32,64]",
    "schedule.batch_size=2",
    "runtime.workers=0",
    "runtime.timed_steps=0",
]


def config(*overrides: str) -> TrainConfig:
    return load_config(Path("camvid_lite0"), [*SMALL, *VIEWS, *overrides])


def state_of(*overrides: str) -> TrainingState:
    return build_state(config(*overrides), 3, steps_per_epoch=4, ranks=ALONE, precision="fp32")


def weights(model: ECENet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def is_ghost(name: str) -> bool:
    return name.startswith("decode_head.upsample.") and name.endswith(("0.weight", "1.bias"))


def test_options_off_give_the_weights_that_the_seed_draws() -> None:
    torch.manual_seed(0)
    plain = ECENet(named_config("ecenet-lite0", 3)).state_dict()
    state = state_of("model.bilinear_start=false")
    assert changed(weights(state.model), plain) == set()
    started = state_of()
    assert all(is_ghost(name) for name in changed(weights(started.model), plain))
    assert "decode_head.upsample.2.1.cheap.0.weight" in changed(weights(started.model), plain)
    assert changed(weights(started.average.model), weights(started.model)) == set()


def test_rates_of_the_modules_come_from_the_configuration() -> None:
    rates = {group["lr"] for group in state_of("schedule.lr=1.0", "schedule.warmup_epochs=0").optimizer.param_groups}
    assert rates == {1.0, 8.0, 48.0}
    options = ("schedule.lr=1.0", "schedule.warmup_epochs=0", "schedule.head_lr_multiple=3")
    level = state_of(*options, "schedule.classifier_lr_multiple=3").optimizer.param_groups
    assert {group["lr"] for group in level} == {1.0, 3.0}


def test_the_principal_start_reaches_network_and_average_and_nothing_else() -> None:
    state = state_of()
    before = weights(state.model)
    images = [torch.randn(2, 3, 64, 64) for _ in range(2)]
    start_at_principal_directions(state, images, ALONE, seed=5)
    names = {f"decode_head.feature_reconstruction.{i}.{part}" for i in range(4) for part in ("intrinsic.0", "fuse")}
    assert changed(before, weights(state.model)) == {f"{name}.weight" for name in names}
    assert changed(weights(state.average.model), weights(state.model)) == set()
    for stage, sums in enumerate(stage_covariances(state.model.backbone, images)):
        rows = before[f"decode_head.feature_reconstruction.{stage}.intrinsic.0.weight"]
        expected = principal_directions(sums, len(rows)).float()
        module = state.model.get_submodule(f"decode_head.feature_reconstruction.{stage}")
        torch.testing.assert_close(module.get_parameter("intrinsic.0.weight").detach().flatten(1), expected)


@pytest.mark.parametrize("kind", ["ours", "the authors'"])
@pytest.mark.parametrize("classes", [3, 7])
def test_a_whole_network_of_a_file_keeps_its_head(kind: str, classes: int, tmp_path: Path) -> None:
    torch.manual_seed(9)
    source = ECENet(named_config("ecenet-swin-tiny", classes))
    path = tmp_path / "weights.pt"
    if kind == "ours":
        save_checkpoint(path, source.config, source.state_dict())
    else:
        named = {released_name(k): v for k, v in source.state_dict().items() if not k.endswith(DERIVED)}
        torch.save({"state_dict": named}, path)
    settings = config("model.name=ecenet-swin-tiny", f"model.pretrained={path}")
    model, has_new_head = build_model(settings, 3)
    assert not has_new_head
    kept = [name for name in source.decode_head.state_dict() if "feature_reconstruction" in name or "upsample" in name]
    assert len(kept) > 50
    given, own = source.decode_head.state_dict(), model.decode_head.state_dict()
    assert all(torch.equal(given[name], own[name]) for name in kept)


def test_a_backbone_of_a_file_leaves_the_head_new(tmp_path: Path) -> None:
    torch.manual_seed(9)
    source = ECENet(named_config("ecenet-swin-tiny", 3))
    torch.save(source.backbone.features.state_dict(), tmp_path / "swin.pt")
    settings = config("model.name=ecenet-swin-tiny", f"model.pretrained={tmp_path / 'swin.pt'}")
    model, has_new_head = build_model(settings, 3)
    assert has_new_head
    patches = "features.patch_embed.proj.weight"
    assert torch.equal(model.backbone.state_dict()[patches], source.backbone.state_dict()[patches])


@pytest.mark.parametrize(("options", "starts"), [((), 1), (("model.principal_start=false",), 0)])
def test_a_run_starts_reconstruction_once_and_not_when_it_goes_on(
    options: tuple[str, ...], starts: int, tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, ...]]] = []

    def note(_state: TrainingState, images: list[Tensor], _ranks: Ranks, *, seed: int) -> None:
        assert seed == 0
        seen.append([tuple(batch.shape) for batch in images])

    monkeypatch.setattr("trainer.run.start_at_principal_directions", note)
    settings = config("schedule.epochs=1", *options)
    train(settings, tiny_camvid, tmp_path / "run")
    assert seen == [[(2, 3, 32, 64)] * 4] * starts  # all four steps of the only epoch
    train(settings, tiny_camvid, tmp_path / "run", resume=True)
    assert len(seen) == starts


def test_a_run_from_a_whole_network_is_not_started_again(
    tiny_camvid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.run.start_at_principal_directions", lambda *_args, **_options: pytest.fail("started"))
    torch.manual_seed(9)
    source = ECENet(named_config("ecenet-lite0", 11))
    save_checkpoint(tmp_path / "best.pt", source.config, source.state_dict())
    train(config("schedule.epochs=1", f"model.pretrained={tmp_path / 'best.pt'}"), tiny_camvid, tmp_path / "run")


def test_a_checkpoint_with_fewer_terms_restores_their_sums(tiny_camvid: Path, tmp_path: Path) -> None:
    run = prepare(config(), tiny_camvid, tmp_path, ALONE)
    content = {"training": training_state(run.state), "weights": run.state.average.model.state_dict()}
    content["training"]["epoch_sums"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    load_training_state(run.state, content)
    assert run.state.epoch_sums.tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]


def stepped(run: Run, steps: int) -> None:
    """Do steps by hand: a gradient of ones."""
    for _ in range(steps):
        for parameter in run.state.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        run.state.optimizer.step()
        run.state.scheduler.step()
        run.state.step += 1


def content_of(run: Run) -> dict[str, Any]:
    return {"training": training_state(run.state), "weights": run.state.average.model.state_dict()}


@pytest.mark.usefixtures("tiny_sizes")
def test_a_resumed_run_has_the_rates_and_decays_of_its_configuration(tiny_camvid: Path, tmp_path: Path) -> None:
    """Where they are accepted changes; equal ones give the rate that the run had, to the bit."""
    before = prepare(config(), tiny_camvid, tmp_path, ALONE)
    stepped(before, 7)
    saved = content_of(before)
    same = prepare(config(), tiny_camvid, tmp_path, ALONE)
    load_training_state(same.state, saved)
    other = prepare(config("schedule.lr=6e-3", "schedule.weight_decay=0.5"), tiny_camvid, tmp_path, ALONE)
    load_training_state(other.state, saved)
    for run, lr, decay in ((same, 3e-4, 0.02), (other, 6e-3, 0.5)):
        factor = (1 - (7 - 4) / (200 * 4 - 4)) ** 0.9  # an epoch of four steps is the warm-up
        groups = run.state.optimizer.param_groups
        assert [group["lr"] for group in groups] == pytest.approx([lr * factor * x for x in (1, 1, 8, 8, 192, 192)])
        assert [group["weight_decay"] for group in groups] == [decay, 0.0] * 3
        moments = run.state.optimizer.state[groups[0]["params"][0]]
        assert float(moments["step"]) == 7
        assert torch.equal(moments["exp_avg"], before.state.optimizer.state_dict()["state"][0]["exp_avg"])
    rates = [[group["lr"] for group in run.state.optimizer.param_groups] for run in (before, same)]
    assert rates[0] == rates[1] == same.state.scheduler.get_last_lr()
    stepped(other, 1)
    assert other.state.scheduler.get_last_lr()[0] == pytest.approx(6e-3 * (1 - (8 - 4) / (200 * 4 - 4)) ** 0.9)


@pytest.mark.usefixtures("tiny_sizes")
def test_an_optimiser_of_other_groups_is_not_resumed(tiny_camvid: Path, tmp_path: Path) -> None:
    saved = content_of(prepare(config(), tiny_camvid, tmp_path, ALONE))
    run = prepare(config("schedule.classifier_lr_multiple=8"), tiny_camvid, tmp_path, ALONE)
    with pytest.raises(ConfigError, match=r"rates or decays of \[schedule\] that were equal differ now"):
        load_training_state(run.state, saved)


@pytest.mark.usefixtures("tiny_sizes")
def test_a_run_goes_on_in_fp16_that_began_in_another_precision(tiny_camvid: Path, tmp_path: Path) -> None:
    """Also without a change of the configuration: ``auto`` depends on the machine."""
    saved = content_of(prepare(config(), tiny_camvid, tmp_path, ALONE))
    run = prepare(config("schedule.precision=fp16"), tiny_camvid, tmp_path, ALONE)
    load_training_state(run.state, saved)
    assert run.state.scaler.get_scale() == 65536


@pytest.mark.parametrize(
    ("overrides", "ranks", "message"),
    [
        (["schedule.batch_size=9"], 1, "schedule.batch_size is 9, expected 1 to the 8 images"),
        (["loss.cross_entropy=0", "loss.overlap=0"], 1, "loss.cross_entropy and loss.overlap are 0"),
        (["data.crop_size=[32,32]", "schedule.batch_size=1"], 1, "data.crop_size is 32x32, which leaves a batch norm"),
        (["data.crop_size=[32,32]", "schedule.accumulate=2"], 1, "data.crop_size is 32x32, which leaves a batch norm"),
        (["data.crop_size=[32,32]", "schedule.sync_batchnorm=false"], 2, "data.crop_size is 32x32"),
        (["data.crop_size=[32,32]"], 2, None),
        (["data.crop_size=[32,33]", "schedule.batch_size=1"], 1, None),
        (["loss.cross_entropy=0"], 1, None),
    ],
)
def test_settings_that_no_step_can_be_done_with_are_refused(
    overrides: list[str], ranks: int, message: str | None
) -> None:
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        check_trainable(config(*overrides), 8, Ranks(0, ranks, torch.device("cpu")))
