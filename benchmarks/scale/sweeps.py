"""The cases that are simulated: which fleet, under which arrivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from benchmarks.scale.arrivals import Times, bursty, poisson
from benchmarks.scale.fleet import Fleet, Outage
from benchmarks.scale.policies import POLICIES
from benchmarks.scale.service_model import ServiceModel

ArrivalName = Literal["poisson", "bursty"]
SweepName = Literal["equal", "slow", "balancers", "batch bundled", "batch fixed", "events"]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)
ARRIVALS: dict[ArrivalName, Callable[[float, int, int], Times]] = {"poisson": poisson, "bursty": bursty}
REPLICAS = 8
BALANCERS = 16
SLOWDOWN = 2.0
BATCH_LIMITS = (1, 2, 4, 8)
LOADS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Case:
    """One simulation.

    Attributes:
        sweep: The sweep it is part of.
        line: Which line of the plot, or row of the table.
        load: Mean arrivals over ``capacity_per_s``.
        capacity_per_s: What ``load`` refers to.
        fleet: What serves.
        arrivals: How requests come.
    """

    sweep: SweepName
    line: str
    load: float
    capacity_per_s: float
    fleet: Fleet
    arrivals: ArrivalName = "poisson"


def cases(models: Mapping[str, ServiceModel], requests: int) -> Iterator[Case]:
    """All cases of ``requests`` requests each; the number also sets when a replica dies."""
    bundled = models["bundled"]
    for policy in POLICIES:
        fleet = Fleet(bundled, REPLICAS, policy)
        yield from _over_loads("equal", policy, fleet)
        yield from _over_loads("slow", policy, replace(fleet, slowdowns={0: SLOWDOWN}))
        yield from _over_loads("balancers", policy, replace(fleet, balancers=BALANCERS))
    yield from _over_batch_limits("batch bundled", bundled)
    yield from _over_batch_limits("batch fixed", models["fixed"])
    yield from _events(Fleet(models["fixed"], REPLICAS), requests)


def _over_loads(sweep: SweepName, line: str, fleet: Fleet) -> Iterator[Case]:
    for load in LOADS:
        yield Case(sweep, line, load, fleet.capacity_per_s, fleet)


def _over_batch_limits(sweep: SweepName, model: ServiceModel) -> Iterator[Case]:
    """Batch limits on one scale: the capacity with the largest."""
    by_limit = {
        size: ServiceModel(model.costs, replace(model.limits, max_batch_size=size, window_s=0.0))
        for size in BATCH_LIMITS
    }
    capacity = Fleet(by_limit[BATCH_LIMITS[-1]], REPLICAS).capacity_per_s
    for size, limited in by_limit.items():
        for load in LOADS:
            yield Case(sweep, f"batches of up to {size}", load, capacity, Fleet(limited, REPLICAS))


def _events(fleet: Fleet, requests: int) -> Iterator[Case]:
    """Cases of bursts and of a death, for a fleet that is sized for its mean load."""
    capacity = fleet.capacity_per_s
    for load in (0.5, 0.7):
        third_s = requests / (load * capacity) / 3
        death = replace(fleet, outages=(Outage(0, third_s, 2 * third_s),))
        yield Case("events", "Poisson", load, capacity, fleet)
        yield Case("events", "bursts of 3 times the mean", load, capacity, fleet, "bursty")
        yield Case("events", "1 of 8 dead for a third of the time", load, capacity, death)
