"""A real Alertmanager with the shipped rules of inhibition: a cause silences its symptoms, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.load_balancer.patience import until
from tests.observability.shipped import alerts
from tests.observability.stack import Alertmanager, alertmanager

pytestmark = pytest.mark.deployment


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    with alertmanager(tmp_path_factory.mktemp("alertmanager"), "http://127.0.0.1:9/") as (running, _):
        yield running


def labels_of(name: str, job: str) -> dict[str, str]:
    """Labels of an alert that is named with its instance."""
    alert, _, instance = name.partition(" ")
    labels = {"alertname": alert, "job": job, "severity": alerts()[alert]["labels"]["severity"]}
    return {**labels, "instance": instance} if instance else labels


@pytest.mark.parametrize(
    ("cause", "silenced", "heard"),
    [
        ("EcenetUnavailable", ["EcenetRejecting", "EcenetTargetDown a", "EcenetNotReady c"], ["EcenetEngineDown b"]),
        ("EcenetTargetDown a", ["EcenetNotReady a", "EcenetRestarting a"], ["EcenetNotReady b", "EcenetErrorRate"]),
        ("EcenetEngineDown a", ["EcenetNotReady a"], ["EcenetNotReady b", "EcenetErrorRate"]),
        ("EcenetRejecting", ["EcenetQueueWaitHigh", "EcenetLatencyHigh"], ["EcenetErrorRate", "EcenetTargetDown a"]),
        ("EcenetErrorRate", ["EcenetErrorBudgetBurn"], ["EcenetRejecting", "EcenetTargetDown a"]),
    ],
)
def test_cause_silences_its_symptoms_in_its_own_job(
    running: Alertmanager, cause: str, silenced: list[str], heard: list[str]
) -> None:
    job, other = f"ecenet-{cause}", f"other-than-{cause}"
    names = [cause, *silenced, *heard]
    # The other job's alerts are there first: where the job's symptoms are silenced, theirs could have been.
    running.send([labels_of(name, other) for name in names if name != cause])
    running.send([labels_of(name, job) for name in names])
    expected = {name: name in silenced for name in names}
    until(lambda: running.silenced(job) == expected, f"of {job} only {silenced} are silenced")
    assert cause not in running.silenced(other)
    assert not any(running.silenced(other)[name] for name in silenced)
