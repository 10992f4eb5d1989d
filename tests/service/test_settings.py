from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.command_line import read_settings
from service.model_directory.engine_store import STATE_VARIABLE
from service.settings import Settings, SettingsError, option


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ECENET_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = read_settings([])
    assert (settings.host, settings.port, settings.model_dir) == ("127.0.0.1", 8000, None)
    assert (settings.max_image_bytes, settings.max_image_pixels) == (20 * 2**20, 50_000_000)
    assert (settings.max_batch_size, settings.batch_window_ms, settings.engine_timeout_s) == (None, None, None)
    assert (settings.max_requests_in_flight, settings.max_pixels_in_flight) == (64, 400_000_000)
    assert settings.max_request_timeout_s is None
    assert (settings.request_timeout_s, settings.drain_timeout_s, settings.drain_delay_s) == (30.0, 20.0, 1.0)
    assert settings.codec_threads >= 1
    assert settings.engine_threads >= 1


def test_command_line_wins_over_environment_wins_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_PORT", "8001")
    monkeypatch.setenv("ECENET_MAX_BATCH_SIZE", "3")
    settings = read_settings(["--port", "8002", "--model-dir", "models/mine"])
    assert (settings.port, settings.max_batch_size, settings.max_requests_in_flight) == (8002, 3, 64)
    assert settings.model_dir == Path("models/mine")


def test_a_switch_may_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not read_settings([]).build_engine
    assert read_settings(["--build-engine", "--port", "8002"]).build_engine
    monkeypatch.setenv("ECENET_BUILD_ENGINE", "true")
    assert read_settings([]).build_engine
    assert not read_settings(["--build-engine", "false"]).build_engine
    with pytest.raises(
        SettingsError, match=r"--build-engine \(ECENET_BUILD_ENGINE\) is 'maybe': input should be a valid bool"
    ):
        read_settings(["--build-engine", "maybe"])


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_PORT", "")
    assert read_settings([]).port == 8000


def test_port_variable_of_a_kubernetes_service_link_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_PORT", "tcp://10.0.0.1:80")
    assert read_settings([]).port == 8000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], ["--port", "ECENET_PORT", "'70000'", "65535"]),
        (["--max-batch-size", "0"], ["--max-batch-size", "'0'", "1"]),
        (["--max-image-bytes", "many"], ["--max-image-bytes", "'many'", "integer"]),
        (["--request-timeout-s", "nan"], ["--request-timeout-s", "'nan'"]),
        (["--engine", "abacus"], ["--engine", "'abacus'", "'onnxruntime'"]),
        (["--log-level", "loud"], ["--log-level", "'loud'", "'warning'"]),
    ],
)
def test_wrong_value_is_told_with_option_value_and_limit(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(SettingsError) as failure:
        read_settings(arguments)
    assert all(word in str(failure.value) for word in words), str(failure.value)
    assert "\n" not in str(failure.value)


def test_all_wrong_values_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_MAX_REQUESTS_IN_FLIGHT", "0")
    with pytest.raises(SettingsError, match=r"--port.*--max-requests-in-flight"):
        read_settings(["--port", "-1"])


def test_help_names_every_setting_and_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for name, field in Settings.model_fields.items():
        assert option(name) in text
        assert field.description
    assert text.rstrip().splitlines()[-1].lstrip().startswith("curl -F file=@")


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(["--batch-size", "4"])
    assert end.value.code == 2
    assert "--batch-size" in capsys.readouterr().err


def test_state_folder_reaches_the_engine_store_however_it_was_set() -> None:
    program = (
        "import service.processes as processes, service.model_directory.engine_store as store\n"
        "from service.__main__ import main\n"
        "processes.serve = lambda *_: (2, str(store.state_folder()))\n"
        "main(['--port', '0', '--state-dir', '/somewhere/state'])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "ecenet-serve: /somewhere/state\n")
    assert option("state_dir") == "--state-dir"
    assert Settings.model_config["env_prefix"] + "STATE_DIR" == STATE_VARIABLE


@pytest.mark.parametrize(
    ("given", "precision", "measure"),
    [
        ({}, "auto", True),
        ({"exact": True}, "fp32", False),
        ({"exact": True, "precision": "int8"}, "int8", False),
        ({"precision": "fp16"}, "fp16", True),
    ],
)
def test_engines_are_measured_unless_answers_shall_be_exact(
    given: dict[str, Any], precision: str, measure: bool
) -> None:
    options = Settings(**given).engine_options
    assert (options.precision, options.measure) == (precision, measure)


def test_the_smallest_input_is_asked_for_by_speed() -> None:
    assert [Settings(speed=speed).engine_options.speed for speed in (False, True)] == [False, True]
    with pytest.raises(ValueError, match="--speed and --input-size both choose an input size; leave out one"):
        Settings(speed=True, input_size=(32, 64))
