"""``k8s/README.md`` names what is there, with five commands for each kind of cluster, and says what tests show."""

from __future__ import annotations

import re

import pytest

from k8s.sizing import DEVICES
from tests.k8s.manifests import K8S
from tests.k8s.nodes import SMALLEST

README = (K8S / "README.md").read_text(encoding="utf-8")
CLUSTERS = README.partition("## Which cluster do you have?")[2].partition("\n## ")[0]


def test_it_begins_with_the_kinds_of_cluster() -> None:
    assert README.index("## Which cluster do you have?") == README.index("\n## ") + 1
    rows = [line for line in CLUSTERS.splitlines() if line.startswith("| [")]
    headings = re.findall(r"^### (.+)$", CLUSTERS, re.MULTILINE)
    assert [re.match(r"\| \[([^]]+)\]", row)[1] for row in rows] == headings  # type: ignore[index]
    assert len(rows) == 5


@pytest.mark.parametrize("section", re.split(r"^### ", CLUSTERS, flags=re.MULTILINE)[1:], ids=lambda text: text[:12])
def test_each_kind_of_cluster_has_five_commands(section: str) -> None:
    assert len(re.findall(r"^\$ ", section, re.MULTILINE)) == 5


def test_the_smallest_nodes_are_those_that_pods_fit_on() -> None:
    assert [node.name for node, _ in SMALLEST if node.name not in README] == []


def test_the_price_of_an_l4_is_that_of_the_sizing() -> None:
    (l4,) = [device for device in DEVICES if "overlays/gpu" in device.name]
    assert f"| ${l4.dollars_per_million:.2f} a million images, an estimate |" in CLUSTERS


def test_every_folder_and_file_that_it_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    applied = re.findall(r"-k k8s/([\w/-]+)", README.replace("\n", " "))
    rows = re.findall(r"^\| `([a-z/-]+)`(?:, `([a-z/-]+)`)? \|", README, re.MULTILINE)
    folders = {name for row in rows for name in row if name}
    assert applied
    assert [link for link in links if not (K8S / link).exists()] == []
    mine = {"overlays/mine", "overlays/mine-canary"}
    assert [name for name in applied if name not in mine and not (K8S / name / "kustomization.yaml").exists()] == []
    assert [name for name in folders if not ((K8S / name).is_dir() or (K8S / "components" / name).is_dir())] == []
    for parent in ("overlays", "platform", "jobs"):
        assert {f"{parent}/{path.name}" for path in (K8S / parent).iterdir()} <= folders
    assert {path.name for path in (K8S / "components").iterdir()} <= folders


def test_every_way_to_switch_removes_what_the_old_one_left() -> None:
    section = README.partition("## Switch components")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ .*kubectl apply.*$", section, re.MULTILINE)
    assert commands
    assert all("--prune --applyset=" in command and "KUBECTL_APPLYSET=true" in command for command in commands)


def test_nothing_changes_a_weight_but_an_overlay() -> None:
    assert re.findall(r"^\$ .*kubectl.* annotate .*$", README, re.MULTILINE) == []
