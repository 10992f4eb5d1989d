"""Configurations: the shipped ones, overrides, and errors that help."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from trainer.config import CONFIG_DIR, ConfigError, TrainConfig, changed_keys, load_config, parse_config
from trainer.datasets.mapped import NAMED_MAPS
from trainer.datasets.source import Source


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    assert load_config(path) == load_config(Path(path.stem))


def test_overrides_have_the_last_word() -> None:
    config = load_config(Path("camvid_lite0"), ["schedule.epochs=3", "data.scale=[1, 2]", "model.name=ecenet-lite2"])
    assert config.schedule.epochs == 3
    assert config.data.scale == (1.0, 2.0)
    assert config.model.name == "ecenet-lite2"


def test_a_configuration_survives_its_dictionary() -> None:
    config = load_config(Path("camvid_lite0"))
    assert parse_config(config.as_dict()) == config
    assert parse_config({}) == TrainConfig()
    assert parse_config(tomllib.loads(config.as_toml())) == config


def test_the_default_file_is_complete_and_holds_the_defaults() -> None:
    assert load_config(Path("default")) == TrainConfig()
    text = (CONFIG_DIR / "default.toml").read_text(encoding="utf-8")
    for section, keys in TrainConfig().as_dict().items():
        for key in keys:
            assert re.search(rf"^# .+\n(# )?{key} = ", text, re.MULTILINE), f"{section}.{key} has no comment"


@pytest.mark.parametrize("kind", [*map(type, dict(TrainConfig()).values()), Source], ids=lambda kind: kind.__name__)
def test_every_key_is_documented(kind: type[BaseModel]) -> None:
    for key in kind.model_fields:
        assert f"    {key}: " in (kind.__doc__ or ""), f"{kind.__name__} does not say what {key} is"


def test_a_file_changes_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('extends = "camvid_lite0"\n[schedule]\nepochs = 7\nlr = 1e-3\n')
    (tmp_path / "short.toml").write_text('extends = "base.toml"\n[schedule]\nepochs = 2\n')
    config = load_config(tmp_path / "short.toml")
    assert (config.schedule.epochs, config.schedule.lr) == (2, 1e-3)
    assert (config.loss.overlap, config.data.jitter) == (2.0, 0.6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "self.toml"', r"extends itself: self\.toml -> self\.toml"),
        ('extends = "absent"', r"absent cannot be read.*camvid_lite0"),
        ("extends = 3", r"extends is 3, expected the name of a file"),
        ("[schedule", r"self\.toml cannot be read"),
        (f"x = {'[' * 5000}", r"self\.toml cannot be read"),
    ],
)
def test_a_file_that_cannot_be_built_on_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "self.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "self.toml")


def test_what_changed_is_told_but_for_the_runtime() -> None:
    before = load_config(Path("camvid_lite0")).as_dict()
    after = load_config(Path("camvid_lite0"), ["schedule.epochs=3", "runtime.workers=0", "data.scale=[1,2]"]).as_dict()
    assert changed_keys(before, before) == []
    assert changed_keys(before, after) == [
        "data.scale: [0.6, 1.8] -> [1.0, 2.0]",
        "schedule.epochs: 200 -> 3",
    ]
    del before["schedule"]["seed"]  # a run of a release that did not know the key
    assert "schedule.seed: null -> 0" in changed_keys(before, after)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"schedule": {"epoch": 3}}, r"unknown key schedule\.epoch; did you mean schedule\.epochs\?"),
        ({"modle": {}}, r"unknown key modle; did you mean model\?"),
        ({"schedule": {"epochs": "many"}}, r"schedule\.epochs is 'many', expected a valid integer"),
        ({"data": {"crop_size": [3]}}, r"data\.crop_size\[1\] is missing"),
        ({"loss": 3}, r"\[loss\] is 3, expected a table"),
        ({"schedule": {"workers": 2}}, r"unknown key schedule\.workers; did you mean runtime\.workers\?"),
        ({"schedule": {"precision": "fp8"}}, r"precision is 'fp8', expected 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"loss": {"diversity_form": "free"}}, r"diversity_form is 'free', expected 'scale-free' or 'released'"),
        ({"schedule": {"lr": -1}}, r"schedule\.lr is -1, expected greater than or equal to 0"),
        ({"data": {"crop_size": [352, 8]}}, r"data\.crop_size\[1\] is 8, expected greater than or equal to 32"),
        ({"schedule": {"lr": float("nan")}}, r"schedule\.lr is nan, expected a finite number"),
        ({"runtime": {"workers": 257}}, r"runtime\.workers is 257, expected less than or equal to 256"),
        ({"data": {"input_size": [352, 480.0]}}, r"data\.input_size\[1\] is 480\.0, expected a valid integer"),
        ({"data": {"scale": [2.0, 0.5]}}, r"data\.scale is \[2\.0, 0\.5\], expected the smaller one first"),
        ({"data": {"cache": "yes"}}, r"data\.cache is 'yes', expected a valid boolean"),
        ({"model": {"dropout": "no"}}, r"model\.dropout is 'no', expected a valid number"),
        ({"loss": {"class_balance": 1}}, r"loss\.class_balance is 1, expected a valid boolean"),
    ],
)
def test_mistakes_are_named(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key data\.chache; did you mean data\.cache\?; schedule\.epochs is 0"
    ):
        parse_config({"data": {"chache": True}, "schedule": {"epochs": 0}})


def test_sources_are_tables_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mixed.toml").write_text("""
    extends = "camvid_lite0"

    [[data.sources]]
    dataset = "cityscapes_pairs"
    root = "DATA/cityscapes"
    weight = 2
    classes = "cityscapes-to-camvid"

    [[data.sources]]
    dataset = "folder"
    root = "mine"
    split = "extra"
    classes = {lane = "Road", "green lawn" = "void"}
    """)
    config = load_config(tmp_path / "mixed.toml")
    assert config.data.sources is not None
    first, second = config.data.sources
    names = NAMED_MAPS["cityscapes-to-camvid"]
    assert first == Source(dataset="cityscapes_pairs", root="DATA/cityscapes", weight=2.0, classes=names)
    assert (second.root, second.split, second.weight) == ("mine", "extra", 1.0)
    assert second.classes == {"lane": "Road", "green lawn": "void"}
    assert parse_config(tomllib.loads(config.as_toml())) == parse_config(config.as_dict()) == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"dataset": "voc"}, r"^data\.sources\[0\]\.root is missing"),
        ({"wieght": 2}, r"unknown key data\.sources\[0\]\.wieght; did you mean data\.sources\[0\]\.weight\?"),
        ({"root": 3}, r"data\.sources\[0\]\.root is 3, expected a valid string"),
        ({"weight": True}, r"weight is True, expected a valid number"),
        ({"weight": 0}, r"data\.sources\[0\]\.weight is 0, expected greater than 0"),
        ({"classes": {"a": 1}}, r"data\.sources\[0\]\.classes\.a is 1, expected a valid string"),
        ({"classes": 3}, r"classes is 3, expected a valid dictionary"),
        ({"classes": "voc-to-camvid"}, "map of classes 'voc-to-camvid' is unknown; .*cityscapes-to-camvid"),
    ],
)
def test_a_source_with_another_key_or_value_is_an_error(table: dict[str, object], message: str) -> None:
    defaults = {} if "dataset" in table else {"dataset": "voc", "root": "x"}
    with pytest.raises(ConfigError, match=message):
        parse_config({"data": {"sources": [defaults | table]}})


def test_a_single_table_of_sources_is_told_how_to_be_a_list() -> None:
    with pytest.raises(ConfigError, match=r"^\[data\.sources\] is one table, .* each below \[\[data\.sources\]\]$"):
        parse_config({"data": {"sources": {"dataset": "voc", "root": "x"}}})


def test_an_unreadable_file_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="camvid_lite0"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match=r"'epochs' is not of the form section\.key=value"):
        load_config(Path("camvid_lite0"), ["epochs"])
