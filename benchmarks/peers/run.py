"""Give all servers the same work by turns, and write the results.

    python -m benchmarks.peers.run --environments DIR

Each server has its own environment in DIR, which is made the first time (some 1.5 GB in all). Every round starts
every server again with each engine. ``python -m benchmarks.peers.table`` puts ``results.json`` into the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.peers.peers import OURS, PEERS, Peer
from benchmarks.peers.running import PeerError, exam_of, running
from benchmarks.peers.scenarios import Faults, Steady, faults, steady
from benchmarks.peers.work import ENGINES, EngineName
from benchmarks.scale.calibrate import origin

RESULTS = Path(__file__).with_name("results.json")
# Clients at the same time.
CLIENTS = {"sleeping": (1, 8, 32), "bundled": (1, 8), "measured": (1, 8)}


def measure(
    peer: Peer, engine_name: EngineName, environments: Path, seconds: float
) -> tuple[list[Steady], Faults | None]:
    """One start of a server; faults are tested with the engine that sleeps.

    Raises:
        PeerError: It did not start.
    """
    exam = exam_of(peer, engine_name)
    log = environments / f"{peer.module}-{engine_name}.log"
    with running(peer, engine_name, environments, exam, log) as server:
        rows = [steady(server, exam, clients, seconds) for clients in CLIENTS[engine_name]]
        return rows, faults(server, exam) if engine_name == "sleeping" else None


def medians(rounds: Sequence[Steady] | Sequence[Faults]) -> dict[str, float]:
    """Per measure the median of the rounds."""
    return {field.name: statistics.median(getattr(each, field.name) for each in rounds) for field in fields(rounds[0])}


def run(
    peers: Sequence[Peer], environments: Path, *, rounds: int, seconds: float
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Rows of steady load, one per server, engine and number of clients, and of faults, one per server.

    Yielded after every start, with all rows so far. A server that does not start is reported and left out.
    """
    loads: dict[tuple[str, str, int], list[Steady]] = {}
    events: dict[str, list[Faults]] = {}
    for number, engine_name, peer in tqdm(list(_turns(peers, rounds)), unit="start"):
        tqdm.write(f"round {number + 1}: {peer.name}, {engine_name} engine", file=sys.stderr)
        try:
            rows, seen = measure(peer, engine_name, environments, seconds)
        except PeerError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            continue
        for row in rows:
            loads.setdefault((engine_name, peer.name, row.clients), []).append(row)
        if seen is not None:
            events.setdefault(peer.name, []).append(seen)
        yield (
            [{"engine": engine, "peer": name, **medians(each)} for (engine, name, _), each in loads.items()],
            [{"peer": name, **medians(each)} for name, each in events.items()],
        )


def _turns(peers: Sequence[Peer], rounds: int) -> Iterable[tuple[int, EngineName, Peer]]:
    """Each round begins with another server: a machine that gets slower is no one's advantage."""
    for number in range(rounds):
        turn = number % len(peers)
        for engine_name in ENGINES:
            for peer in (*peers[turn:], *peers[:turn]):
                if engine_name != "measured" or peer is OURS:
                    yield number, engine_name, peer


def main() -> None:
    """Install, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the servers' environments")
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", choices=[peer.name for peer in PEERS], help="these servers"
    )
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server and engine; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=6, help="of each steady load; default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if arguments.only is None or peer.name in arguments.only]
    arguments.environments.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        peer.install(arguments.environments)
    options = ["--environments", "DIR", "--rounds", str(arguments.rounds), "--seconds", f"{arguments.seconds:g}"]
    content: dict[str, Any] = {
        "origin": asdict(origin("benchmarks.peers.run", options)),
        "requirements": {peer.name: peer.requirement for peer in peers},
    }
    for load, events in run(peers, arguments.environments, rounds=arguments.rounds, seconds=arguments.seconds):
        content |= {"load": load, "faults": events}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
