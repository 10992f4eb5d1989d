"""Counts over processes that are forked, killed and replaced."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.metrics import NO_MODEL, Metrics
from service.shared_metrics.families import SharedCounter, SharedHistogram
from service.shared_metrics.metric_pages import MetricPages
from tests.service.shared_metrics import metric_scenarios as scenarios
from tests.support.forked import fresh


def series(text: str) -> dict[str, float]:
    """The values by name and labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_counts_of_all_processes_are_added_also_under_labels_that_this_one_has_not() -> None:
    text = fresh(scenarios.counts_of_three)
    assert series(text) == {'events_total{kind="k0"}': 1 + 3, 'events_total{kind="k1"}': 2}


def test_counts_of_a_killed_process_stay_and_the_next_one_goes_on() -> None:
    texts = fresh(scenarios.killed_and_replaced)
    assert [series(text) for text in texts] == [{'events_total{kind="a"}': 3}, {'events_total{kind="a"}': 6}]


def test_histograms_of_all_processes_are_added() -> None:
    assert series(fresh(scenarios.histograms_of_two)) == {
        'times_bucket{kind="a",le="0.1"}': 1,
        'times_bucket{kind="a",le="1.0"}': 3,
        'times_bucket{kind="a",le="+Inf"}': 4,
        'times_count{kind="a"}': 4,
        'times_sum{kind="a"}': 0.25 + 0.1 + 0.5 + 7,
    }


def test_no_increment_is_lost_and_no_total_falls_while_all_count() -> None:
    totals = fresh(scenarios.totals_under_load, 3, 3000)
    assert totals == sorted(totals)
    assert totals[-1] == 3 * 3 * 3000


@pytest.mark.parametrize("seed", range(3))
def test_process_killed_at_any_moment_leaves_all_that_it_counted(seed: int) -> None:
    for told, counted in fresh(scenarios.label_sets_of_a_process_killed_anywhere, seed):
        # Each process in turn may die between its last count and its word of it.
        assert told <= counted <= told + 10


def test_text_is_that_of_prometheus_client() -> None:
    registry, pages, bounds = CollectorRegistry(), MetricPages.create(1), (0.1, 1, 25)
    theirs = (
        Counter("events", "Events.", ["model", "kind"], registry=registry),
        Histogram("times", "Times.", ["model"], buckets=bounds, registry=registry),
    )
    ours = (
        SharedCounter("events", "Events.", ["model", "kind"], pages),
        SharedHistogram("times", "Times.", ["model"], bounds, pages),
    )
    for events, times in (theirs, ours):
        events.labels("a", 'quote " back \\ line\n end').inc()
        for _ in range(3):
            events.labels("é", "").inc()
        for amount in (0.05, 0.1, 0.1000001, 25, 25.5, 12345678):
            times.labels("a").observe(amount)
        times.labels("b")
    lines = generate_latest(registry).decode().splitlines()
    assert "".join(metric.text() for metric in ours).splitlines() == [line for line in lines if "_created" not in line]


def test_metrics_of_two_processes_are_added_by_either() -> None:
    pages = MetricPages.create(2)
    pages.open(0)
    worker = Metrics(pages=pages)
    pages.open(1)
    engine = Metrics(pages=pages)
    worker.request_answered(NO_MODEL, "none", 404)
    worker.of_model("street").image_started(0.5)
    engine.of_model("street").image_started(0.25)
    engine.of_model("night").batch_failed()
    for metrics in (worker, engine):
        values = series(metrics.expose().decode())
        assert values['ecenet_requests_total{format="none",model="none",status="404"}'] == 1
        assert values['ecenet_queue_wait_seconds_sum{model="street"}'] == 0.75
        assert values['ecenet_batch_failures_total{model="night"}'] == 1


@pytest.mark.anyio
async def test_scrape_gives_what_expose_gives() -> None:
    metrics = Metrics("0.9")
    metrics.of_model("street").batch_failed()
    scraped, exposed = series((await metrics.scrape()).decode()), series(metrics.expose().decode())
    assert scraped.keys() == exposed.keys()
    changed = {name for name in scraped if scraped[name] != exposed[name]}
    assert all(name.startswith("process_") for name in changed)
