"""The runbook: a section for each alert, and none without; everything that it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from model_export.__main__ import argument_parser as export_parser
from service.http.app import create_app
from service.settings import Settings, option
from tests.observability.promql import Catalogue, complaints
from tests.observability.shipped import FOLDER, ROOT, alerts

TEXT = (FOLDER / "RUNBOOK.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE)
# Programs of others, whose arguments are checked below.
PROGRAMS = {"k8s/jobs/build-engine/run", "docker", "kubectl", "curl", "ecenet-export", "nvidia-smi"}


def lines_of(language: str) -> list[str]:
    """Lines of the blocks in a language."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    assert list(SECTIONS) == list(alerts())


@pytest.mark.parametrize("alert", SECTIONS)
def test_a_section_is_one_paragraph_and_where_to_look(alert: str) -> None:
    prose = re.sub(r"^```.*?^```", "", SECTIONS[alert], flags=re.MULTILINE | re.DOTALL).strip()
    assert "\n\n" not in prose
    assert len(prose.split()) > 30
    assert "```" in SECTIONS[alert]


@pytest.mark.parametrize("expression", lines_of("promql"))
def test_queries_name_what_exists(expression: str, catalogue: Catalogue) -> None:
    assert complaints(expression, catalogue) == []


def test_a_query_in_a_command_names_what_exists(catalogue: Catalogue) -> None:
    queries = [words[-1] for words in map(shlex.split, COMMANDS) if "promtool" in words]
    assert queries
    assert [complaint for query in queries for complaint in complaints(query, catalogue)] == []


def test_alerts_reasons_and_options_that_the_text_names_exist() -> None:
    assert set(re.findall(r"Ecenet\w+", TEXT)) == set(alerts())
    outside = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    options = set(re.findall(r"`(--[a-z-]+)", outside))
    assert options
    assert options <= {option(name) for name in Settings.model_fields}


def test_commands_are_real() -> None:
    assert {shlex.split(command)[0] for command in COMMANDS} == PROGRAMS
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "ecenet-export":
            export_parser().parse_args(words[1:])
    for path in re.findall(r"(?:-f|-k) (\S+/\S+)", "\n".join(COMMANDS)):
        assert (ROOT / path).exists(), path


def test_names_of_services_deployments_and_paths_are_those_of_the_project(shared_model_dir: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    assert {"ecenet", "prometheus"} <= set(compose["services"])
    deployment = yaml.safe_load((ROOT / "k8s" / "base" / "deployment.yaml").read_text(encoding="utf-8"))
    namespace = yaml.safe_load((ROOT / "k8s" / "base" / "kustomization.yaml").read_text(encoding="utf-8"))["namespace"]
    (selector,) = set(re.findall(r" -l (\S+)=ecenet ", TEXT))
    assert deployment["metadata"]["labels"][selector] == "ecenet"
    assert set(re.findall(r"deployment/(\w+)", TEXT)) == {deployment["metadata"]["name"]}
    assert set(re.findall(r"kubectl -n (\w+)", TEXT)) == {namespace}
    paths = create_app(Settings(model_dir=shared_model_dir)).openapi()["paths"]
    assert {f"/{path}" for path in re.findall(r"curl -s http://localhost:8000/(\S+)", TEXT)} <= set(paths)
