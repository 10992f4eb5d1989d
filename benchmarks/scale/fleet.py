"""Clients, balancers and replicas in simulated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray
from simpy import Environment, Event

from benchmarks.scale.arrivals import Times
from benchmarks.scale.policies import PolicyName, make_policy
from benchmarks.scale.replica import End, Replica
from benchmarks.scale.service_model import ServiceModel


@dataclass(frozen=True, slots=True)
class Outage:
    """A replica that is killed and comes back."""

    replica: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas, and the balancers before them.

    Attributes:
        model: Each replica.
        replicas: How many.
        policy: Of every balancer.
        balancers: Each sees its own requests alone; requests come to them at random.
        tries: Replicas that a balancer asks for one request, when they refuse it or die with it.
        slowdowns: Factor on the times of some replicas, by their number.
        outages: Deaths of replicas.
    """

    model: ServiceModel
    replicas: int = 1
    policy: PolicyName = "least-outstanding"
    balancers: int = 1
    tries: int = 3
    slowdowns: Mapping[int, float] = field(default_factory=dict)
    outages: Sequence[Outage] = ()

    @property
    def capacity_per_s(self) -> float:
        """Images a second that all replicas together can bear."""
        return sum(self.model.capacity_per_s / self.slowdowns.get(index, 1.0) for index in range(self.replicas))


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of all requests.

    Attributes:
        latencies_s: Of the answered ones, in the order of their arrival; seconds.
        rejected: Requests that all tries refused or lost.
        expired: Requests whose time was over.
        utilisations: Share of the time that each engine was busy.
        batch_sizes: How many batches had which size.
        duration_s: Until the last request had ended, in simulated seconds.
    """

    latencies_s: NDArray[np.float64]
    rejected: int
    expired: int
    utilisations: tuple[float, ...]
    batch_sizes: Mapping[int, int]
    duration_s: float

    @property
    def arrived(self) -> int:
        """All requests."""
        return len(self.latencies_s) + self.rejected + self.expired

    @property
    def rejected_share(self) -> float:
        """Of all requests."""
        return self.rejected / self.arrived


def simulate(fleet: Fleet, arrivals: Times, seed: int) -> Result:
    """Run until every request has ended; equal arguments give equal results."""
    env = Environment()
    replicas = [
        Replica(env, fleet.model, Random(f"{seed} replica {index}"), fleet.slowdowns.get(index, 1.0))
        for index in range(fleet.replicas)
    ]
    for outage in fleet.outages:
        env.process(_suffer(env, replicas[outage.replica], outage))
    clients = _Clients(env, replicas, fleet, seed)
    env.run(until=env.process(clients.run(arrivals)))
    sizes = Counter(size for replica in replicas for size in replica.log.sizes)
    return Result(
        latencies_s=np.array([latency for latency in clients.latencies if latency is not None]),
        rejected=clients.rejected,
        expired=clients.expired,
        utilisations=tuple(replica.log.busy_s / env.now for replica in replicas),
        batch_sizes=dict(sorted(sizes.items())),
        duration_s=float(env.now),
    )


def _suffer(env: Environment, replica: Replica, outage: Outage) -> Generator[Event, None, None]:
    yield env.timeout(outage.start_s)
    replica.kill()
    yield env.timeout(outage.end_s - outage.start_s)
    replica.is_up = True


class _Clients:
    """Send all requests and count what comes back."""

    def __init__(self, env: Environment, replicas: Sequence[Replica], fleet: Fleet, seed: int) -> None:
        self.latencies: list[float | None] = []
        self.rejected = 0
        self.expired = 0
        self._env = env
        self._timeout_s = fleet.model.limits.request_timeout_s
        self._random = Random(f"{seed} clients")
        self._balancers = [
            _Balancer(env, replicas, fleet, Random(f"{seed} balancer {index}")) for index in range(fleet.balancers)
        ]

    def run(self, arrivals: Times) -> Generator[Event, None, None]:
        """Send each request at its time, and wait for the last to end."""
        self.latencies = [None] * len(arrivals)
        exchanges = []
        for index, time in enumerate(arrivals.tolist()):
            # The clock is a sum of delays, and can be ahead in its last bit.
            yield self._env.timeout(max(0.0, time - self._env.now))
            exchanges.append(self._env.process(self._exchange(index)))
        yield from exchanges

    def _exchange(self, index: int) -> Generator[Event, End | None, None]:
        arrived = self._env.now
        end = yield from self._random.choice(self._balancers).send(arrived + self._timeout_s)
        if end is End.ANSWERED:
            self.latencies[index] = self._env.now - arrived
        elif end is End.EXPIRED:
            self.expired += 1
        else:
            self.rejected += 1


class _Balancer:
    """Asks replicas, at most ``tries`` of them for one request."""

    def __init__(self, env: Environment, replicas: Sequence[Replica], fleet: Fleet, random: Random) -> None:
        self._env = env
        self._replicas = replicas
        self._tries = fleet.tries
        self._choose = make_policy(fleet.policy, random)
        self._outstanding = [0] * len(replicas)

    def send(self, deadline: float) -> Generator[Event, End, End | None]:
        """Send a request to one replica after the other; gives its end, None if all refused it."""
        untried = list(range(len(self._replicas)))
        for _ in range(min(self._tries, len(untried))):
            index = self._choose(untried, self._outstanding)
            untried.remove(index)
            visit = self._replicas[index].enter(deadline)
            if visit is None:
                continue
            self._outstanding[index] += 1
            end = yield visit.ended
            self._outstanding[index] -= 1
            if end is not End.LOST:
                return end
        return None
