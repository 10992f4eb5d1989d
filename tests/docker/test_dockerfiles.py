"""Checks of the Dockerfiles that need no build; hadolint does the rest."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service.command_line import CONFIG_VARIABLE
from service.settings import Settings, variable

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile", "docker/Dockerfile.cpu")
TRAINING = "docker/Dockerfile.train"
# The stage that says how an image runs, where it is not that of the image.
RUNNING = {"Dockerfile": "service"}
JOB = ROOT / "k8s/jobs/training/job.yaml"
TRAIN_LOCK = ROOT / "docker/requirements.train.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(params=DOCKERFILES)
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def instructions(name: str) -> list[tuple[str, str]]:
    """(word, arguments) of each instruction, continued lines joined, comments left out."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def stage(name: str, wanted: str) -> list[tuple[str, str]]:
    """The instructions of one stage, the last word of whose FROM is its name."""
    found: list[tuple[str, str]] = []
    current = ""
    for word, rest in instructions(name):
        current = rest.split()[-1] if word == "FROM" else current
        if current == wanted:
            found.append((word, rest))
    return found


def only(name: str, word: str) -> str:
    """The arguments of the one such instruction of the stage that says how an image runs."""
    (rest,) = [rest for found, rest in stage(name, RUNNING.get(name, "runtime")) if found == word]
    return rest


def assignments(name: str, word: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in shlex.split(only(name, word)))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, *DOCKERFILES, TRAINING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_process_is_started_without_a_shell(name: str) -> None:
    assert json.loads(only(name, "ENTRYPOINT")) == ["/opt/ecenet/entrypoint.sh"]
    assert {"ecenet-serve", "ecenet-export"} <= set(PROJECT["scripts"])
    assert json.loads(only(name, "HEALTHCHECK").partition("CMD ")[2])[0] == "python3"


def test_it_runs_as_a_fixed_number(name: str) -> None:
    assert only(name, "USER") == "10001:10001"
    assert "--uid 10001 --gid 10001" in only(name, "RUN")
    assert "--owner 10001 --group 10001 /var/cache/ecenet" in only(name, "RUN")
    assert only(name, "VOLUME") == "/var/cache/ecenet"


def test_variables_are_settings_with_values_that_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {key: value for key, value in assignments(name, "ENV").items() if key.startswith("ECENET_")}
    assert values.keys() <= {*map(variable, Settings.model_fields), CONFIG_VARIABLE}
    for key, value in values.items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert only(name, "EXPOSE") == str(settings.port)
    assert settings.log_format == "json"
    assert settings.engine_dir == Path(only(name, "VOLUME")) / "engines"


def test_the_gpu_image_builds_its_engine_and_takes_no_other_runtime() -> None:
    assert assignments("Dockerfile", "ENV")["ECENET_ENGINE"] == "tensorrt"
    assert ("ENV", "ECENET_BUILD_ENGINE=true") in stage("Dockerfile", "builder")
    # As long as the service lets the load of a model take.
    minutes = Settings.model_fields["load_timeout_s"].default / 60
    assert f"--start-period={minutes:.0f}m" in only("Dockerfile", "HEALTHCHECK")


def test_the_gpu_image_has_no_cudnn_and_nothing_for_windows() -> None:
    """Files that a later layer deletes still count, so they go where they come."""
    ((_, argument), *_) = instructions("Dockerfile")
    assert "-base-" in argument
    (install,) = [
        rest for word, rest in stage("Dockerfile", "dependencies") if word == "RUN" and "NVIDIA_INDEX" in rest
    ]
    assert install.index("pip install") < install.index("-name '*_win_*'") < install.index("-delete")


def test_the_image_without_a_builder_builds_no_engine_and_is_not_the_default() -> None:
    *_, (_, last) = [found for found in instructions("Dockerfile") if found[0] == "FROM"]
    assert last.split()[-1] == "builder"
    with_builder, without = stage("Dockerfile", "builder"), stage("Dockerfile", "runtime")
    assert ("COPY", "--from=slim-runtime /opt/ecenet /opt/ecenet") in without
    assert [rest for word, rest in without if word == "ENV"] == []
    assert len(with_builder) == len(without) + 1
    ((_, deleted),) = [found for found in stage("Dockerfile", "slim-runtime") if found[0] == "RUN"]
    # No other: tensorrt.so of the wheel needs libnvinfer, libnvinfer_plugin and libnvonnxparser to be imported.
    assert re.findall(r"-name '([^']*)'", deleted) == ["*nvinfer_builder_resource*"]
    assert deleted.endswith("-delete")


def test_labels_tell_the_projects_version_and_licence(name: str) -> None:
    labels = assignments(name, "LABEL")
    prefix = "org.opencontainers.image."
    running = stage(name, RUNNING.get(name, "runtime"))
    arguments = dict(rest.partition("=")[::2] for word, rest in running if word == "ARG")
    assert labels[prefix + "version"] == "${VERSION}"
    assert arguments["VERSION"] == PROJECT["version"]
    assert labels[prefix + "revision"] == "${REVISION}"
    assert labels[prefix + "licenses"] == PROJECT["license"]
    assert {prefix + "title", prefix + "description", prefix + "base.name"} <= labels.keys()


def test_bases_are_one_argument_with_a_version(name: str) -> None:
    ((_, argument), *_) = instructions(name)
    key, _, base = argument.partition("=")
    assert key == "BASE_IMAGE"
    assert re.search(r":\d+\.\d+.*-(ubuntu24\.04|slim-trixie)$", base)
    stages = [rest.split() for word, rest in instructions(name) if word == "FROM"]
    names = {words[-1] for words in stages}
    assert {words[0] for words in stages} - names == {"${BASE_IMAGE}"}


def test_a_change_of_code_leaves_the_dependencies_alone(name: str) -> None:
    copied = [rest for word, rest in stage(name, "dependencies") if word == "COPY"]
    assert copied
    assert all(rest.startswith("docker/requirements.") for rest in copied)
    hashed = [
        rest for word, rest in stage(name, "dependencies") if word == "RUN" and "install --require-hashes" in rest
    ]
    assert len(hashed) == 2


def test_all_that_is_copied_is_let_into_the_context(name: str) -> None:
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    ]
    assert "docker/*.lock" in allowed
    copied = [rest.split()[:-1] for word, rest in instructions(name) if word == "COPY" and "--from" not in rest]
    for path in (path for paths in copied for path in paths):
        assert path in allowed or Path(path).match("docker/*.lock")
        assert "$" in path or (ROOT / path).exists()


def test_the_training_image_is_what_its_job_runs_as() -> None:
    """The Job calls torchrun by its name, as this user, with a root that it cannot write."""
    job = next(yaml.safe_load_all(JOB.read_text(encoding="utf-8").partition("---")[2]))
    pod = job["spec"]["template"]["spec"]
    assert only(TRAINING, "USER") == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert "exec torchrun" in pod["containers"][0]["args"][0]
    assert "torch" in {line.partition("==")[0] for line in TRAIN_LOCK.read_text(encoding="utf-8").splitlines()}
    (environment,) = [rest for word, rest in stage(TRAINING, "dependencies") if word == "ENV"]
    assert dict(part.split("=", 1) for part in shlex.split(environment))["PATH"].startswith("/opt/ecenet/bin:")
    assert "ecenet-train" in PROJECT["scripts"]


def test_both_build_the_project_alike() -> None:
    assert stage(TRAINING, "project") == stage("docker/Dockerfile.cpu", "project")
    assert stage("Dockerfile", "project") == stage("docker/Dockerfile.cpu", "project")
    assert stage("Dockerfile", "slim") == stage("docker/Dockerfile.cpu", "slim")
