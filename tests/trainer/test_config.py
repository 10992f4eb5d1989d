"""Configurations: the shipped ones, overrides, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import CONFIG_DIR, ConfigError, TrainConfig, load_config, parse_config


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


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"schedule": {"epoch": 3}}, r"unknown key schedule\.epoch; did you mean schedule\.epochs\?"),
        ({"modle": {}}, r"unknown key modle; did you mean model\?"),
        ({"schedule": {"epochs": "many"}}, r"schedule\.epochs is 'many', expected a int"),
        ({"data": {"crop_size": [3]}}, r"data\.crop_size is \[3\], expected 2 values"),
        ({"loss": 3}, r"\[loss\] is 3, expected a table"),
        ({"loss": {"class_balance": 1}}, r"loss\.class_balance is 1, expected a bool"),
    ],
)
def test_mistakes_are_named(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)


def test_an_unreadable_file_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="camvid_lite0"):
        load_config(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match=r"'epochs' is not of the form section\.key=value"):
        load_config(Path("camvid_lite0"), ["epochs"])
