"""Policies that choose a replica. A balancer knows how many of its own requests each replica has not answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, get_args

# Replicas to choose from, and the unanswered requests of every replica, to the one chosen.
Policy = Callable[[Sequence[int], Sequence[int]], int]
PolicyName = Literal["random", "round-robin", "least-outstanding", "power-of-two"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


def make_policy(name: PolicyName, random: Random) -> Policy:
    """A policy with state."""
    if name == "random":
        return lambda candidates, _: random.choice(candidates)
    if name == "power-of-two":
        return lambda candidates, outstanding: _better_of_two(candidates, outstanding, random)
    return _Rotation(random.randrange(1 << 16), by_load=name == "least-outstanding")


def _better_of_two(candidates: Sequence[int], outstanding: Sequence[int], random: Random) -> int:
    drawn = random.sample(candidates, min(2, len(candidates)))
    return min(drawn, key=lambda index: outstanding[index])


class _Rotation:
    """In turns; with ``by_load`` only among those with the fewest unanswered requests, as nginx and HAProxy do it.

    Balancers start anywhere, or all of them would send their first requests to the same replica.
    """

    def __init__(self, start: int, *, by_load: bool) -> None:
        self._by_load = by_load
        self._next = start

    def __call__(self, candidates: Sequence[int], outstanding: Sequence[int]) -> int:
        count = len(outstanding)

        def rank(index: int) -> tuple[int, int]:
            return (outstanding[index] if self._by_load else 0, (index - self._next) % count)

        chosen = min(candidates, key=rank)
        self._next = (chosen + 1) % count
        return chosen
