"""``k8s/jobs/build-engine/run``: what it asks kubectl for, in which order, and the status that it returns."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.k8s.manifests import K8S
from tests.support.limits import HANG_S

RUN = K8S / "jobs" / "build-engine" / "run"
# Notes each call; what `get` finds is in files: conditions in the order in which they are read, one a line.
KUBECTL = """#!/bin/sh
echo "$*" >> "$STATE/calls"
case "$*" in
  *"get namespace"*) test -e "$STATE/namespace" ;;
  *"get persistentvolumeclaim"*) test -e "$STATE/claim" ;;
  *"get job"*message*) echo "the build broke" ;;
  *"get job"*)
    head -n 1 "$STATE/conditions"
    sed -i 1d "$STATE/conditions" ;;
  *"get pods"*) printf 'first second' ;;
  *"apply"*-) cat > "$STATE/applied" ;;
esac
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The folder of a cluster that has namespace and claim."""
    for name in ("namespace", "claim", "calls"):
        (tmp_path / name).touch()
    (tmp_path / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (tmp_path / "kubectl").chmod(0o755)
    return tmp_path


def run(state: Path, *conditions: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The command's end, and the calls of kubectl without the namespace."""
    (state / "conditions").write_text("".join(f"{line}\n" for line in conditions), encoding="utf-8")
    path = f"{state}:{os.environ['PATH']}"
    done = subprocess.run(
        [RUN],
        env={"PATH": path, "STATE": str(state), "POLL_S": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    return done, (state / "calls").read_text(encoding="utf-8").replace("--namespace ecenet ", "").splitlines()


def verbs(calls: list[str]) -> list[str]:
    return [" ".join(call.split()[:2]) for call in calls]


def test_the_old_job_is_gone_before_the_new_one_is_made(state: Path) -> None:
    done, calls = run(state, "", "SuccessCriteriaMet Complete")
    assert done.returncode == 0
    delete, create = verbs(calls).index("delete job"), verbs(calls).index("create -k")
    assert delete < create
    assert "--cascade=foreground --wait" in calls[delete]


def test_it_follows_the_newest_pod_once(state: Path) -> None:
    _, calls = run(state, "", "", "", "Complete")
    assert [call for call in calls if call.startswith("logs")] == ["logs --follow second"]


def test_a_failed_build_is_a_failure_with_its_reason(state: Path) -> None:
    done, _ = run(state, "", "FailureTarget Failed")
    assert (done.returncode, done.stderr) == (1, "the build broke\n")


def test_a_cluster_with_namespace_and_claim_gets_none(state: Path) -> None:
    _, calls = run(state, "Complete")
    assert not [call for call in calls if call.startswith("apply")]


def test_an_empty_cluster_gets_namespace_and_claim_first(state: Path) -> None:
    for name in ("namespace", "claim"):
        (state / name).unlink()
    done, calls = run(state, "Complete", NAMESPACE="tenant")
    assert done.returncode == 0
    assert "  name: tenant\n" in (state / "applied").read_text(encoding="utf-8")
    applied = [number for number, call in enumerate(calls) if "apply" in call]
    assert len(applied) == 2
    assert applied[-1] < next(number for number, call in enumerate(calls) if "create -k" in call)
    assert "persistent-volume-claim.yaml" in calls[applied[1]]
