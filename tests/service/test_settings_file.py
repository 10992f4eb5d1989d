"""The settings file, what wins over it, and the print of what came out."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from service.__main__ import main
from service.command_line import describe, read_command_line, read_settings
from service.settings import Settings, SettingsError

SECRET = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ECENET_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "ecenet.toml"
    file.write_text(
        'port = 8001\nmax_requests_in_flight = 5\nrequest_timeout_s = 2\ninput_size = "32x64"\nlog_level = "error"\n'
    )
    return file


def test_command_line_wins_over_environment_over_file_over_default(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_MAX_REQUESTS_IN_FLIGHT", "6")
    monkeypatch.setenv("ECENET_PORT", "8002")
    command_line = read_command_line(["--config", str(file), "--port", "8003"])
    settings = command_line.settings
    assert (settings.port, settings.max_requests_in_flight, settings.request_timeout_s) == (8003, 6, 2.0)
    assert (settings.input_size, settings.drain_timeout_s) == ((32, 64), 20.0)
    assert command_line.sources == {
        "port": "command line --port",
        "max_requests_in_flight": "environment ECENET_MAX_REQUESTS_IN_FLIGHT",
        "request_timeout_s": f"file {file}",
        "input_size": f"file {file}",
        "log_level": f"file {file}",
    }


def test_environment_names_the_file_and_the_command_line_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_CONFIG", str(file))
    assert read_settings([]).port == 8001
    other = file.with_name("other.toml")
    other.write_text("port = 8009")
    assert read_settings(["--config", str(other)]).port == 8009


def test_port_of_a_kubernetes_service_link_does_not_hide_that_of_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECENET_PORT", "tcp://10.0.0.1:80")
    assert read_settings(["--config", str(file)]).port == 8001


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batchsize = 4", ["'max_batchsize'", "'max_batch_size'"]),
        (
            "Max-Requests-In-Flight = 4\nhosts = ''",
            ["'Max-Requests-In-Flight'", "'max_requests_in_flight'", "'hosts'", "'host'"],
        ),
        ("[service]\nport = 1", ["'service'", "nearest"]),
        ("port = \nhost = ''", ["not TOML", "line 1"]),
        ("port = 70000", ["--port", "ECENET_PORT", "70000", "ecenet.toml", "65535"]),
        ("host = '\xff'", ["not TOML"]),
        ("tls_key = 'key.pem'", ["--tls-cert", "--tls-key", "together"]),
        ("rate_limit_per_s = 1", ["--rate-limit-per-s", "--api-keys-file", "ECENET_API_KEYS"]),
        ("rate_limit_burst = 1", ["--rate-limit-burst needs --rate-limit-per-s"]),
        ("cors_origins = ['https://a.example/']", ["--cors-origins", "'https://a.example/'", "origin"]),
        ("cors_origins = 'a.example'", ["--cors-origins", "'a.example'"]),
        (f"api_keys = ['ci:{SECRET}']", ["ECENET_API_KEYS", "**********"]),
    ],
)
def test_wrong_file_is_told_in_one_sentence(file: Path, text: str, words: list[str]) -> None:
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError) as failure:
        read_settings(["--config", str(file)])
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert SECRET not in message


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml cannot be read: No such file"):
        read_settings(["--config", str(tmp_path / "nothing.toml")])


def test_origins_are_a_list_in_the_file_and_commas_elsewhere(file: Path) -> None:
    file.write_text('cors_origins = ["https://a.example", "http://localhost:3000"]')
    in_file = read_settings(["--config", str(file)]).cors_origins
    assert in_file == read_settings(["--cors-origins", "https://a.example, http://localhost:3000"]).cors_origins
    assert in_file == ("https://a.example", "http://localhost:3000")


def test_secrets_have_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--api-keys", f"ci:{SECRET}"])
    assert "unrecognized arguments: --api-keys" in capsys.readouterr().err


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECENET_API_KEYS", f"ci:{SECRET}")
    command_line = read_command_line([])
    assert command_line.settings.api_keys is not None
    assert command_line.settings.api_keys.get_secret_value() == f"ci:{SECRET}"
    text = describe(command_line)
    (line,) = [line for line in text.splitlines() if "api_keys =" in line]
    assert line.startswith("# api_keys = ********** ")
    assert line.endswith("# environment ECENET_API_KEYS")
    assert SECRET not in text + repr(command_line)


def test_print_names_every_setting_and_is_a_settings_file(file: Path, tmp_path: Path) -> None:
    arguments = ["--config", str(file), "--cors-origins", "https://a.example", "--model-dir", 'a "b"\\c']
    text = describe(read_command_line(arguments))
    assert len(text.splitlines()) == len(Settings.model_fields)
    assert [name for name in Settings.model_fields if f"{name} " not in text] == []
    assert tomllib.loads(text)["cors_origins"] == ["https://a.example"]
    printed = tmp_path / "printed.toml"
    printed.write_text(text)
    assert read_settings(["--config", str(printed)]) == read_settings(arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--print-settings", "--port", "9"], "port = 9"),
        (["--port=9", "--print-settings"], "port = 9"),
    ],
)
def test_print_settings_prints_them_and_ends_well(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(status: int, message: str = "") -> None:
        raise SystemExit(status)

    monkeypatch.setattr("service.__main__.leave", end)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    (printed,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("port =")]
    assert printed.startswith(line)
    assert printed.endswith("# command line --port")
