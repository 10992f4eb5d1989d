"""Put the tables of results.json into README.md.

python -m benchmarks.peers.table
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.peers import OURS
from benchmarks.peers.run import CLIENTS, RESULTS
from benchmarks.peers.scenarios import STOP_LIMIT_S, Faults, Steady
from benchmarks.peers.work import EngineName
from benchmarks.scale.calibration import Origin
from benchmarks.scale.readme import filled, origin_text

README = Path(__file__).with_name("README.md")
Rows = Sequence[Mapping[str, Any]]
_ENGINE_NOTES: Mapping[EngineName, str] = {"measured": ", with the engine that it chooses"}


def parts(results: Path = RESULTS) -> dict[str, str]:
    """All tables by their name, and where they are from."""
    content = json.loads(results.read_text(encoding="utf-8"))
    versions = ", ".join(f"`{requirement}`" for requirement in content["requirements"].values() if requirement)
    return {
        "sleeping": load_table(content["load"], "sleeping"),
        "bundled": load_table(content["load"], "bundled", "measured"),
        "faults": faults_table(content["faults"]),
        "origin": f"{origin_text(Origin(**content['origin']))} {versions}.",
    }


def load_table(rows: Rows, *engine_names: EngineName) -> str:
    """A row per server; images a second and latencies at each number of clients, then the costs at the middle one.

    Servers with the first engine come first, then those with the second.
    """
    clients = CLIENTS[engine_names[0]]
    crowd = clients[1]
    of_peer: dict[str, dict[int, Steady]] = {}
    for engine_name in engine_names:
        for row in rows:
            if row["engine"] == engine_name:
                steady = Steady(**{key: value for key, value in row.items() if key not in {"engine", "peer"}})
                name = row["peer"] + _ENGINE_NOTES.get(engine_name, "")
                of_peer.setdefault(name, {})[int(steady.clients)] = steady
    heads = [f"images/s, {_clients(count)}" for count in clients]
    heads += [f"p50 / p99, {_clients(count)}" for count in clients]
    lines = [_line(["server", *heads, "CPU per image", "memory"]), _line(["---", *["---:"] * (len(heads) + 2)])]
    for peer, loads in of_peer.items():
        rates = [f"{loads[count].images_per_s:.1f}" for count in clients]
        latencies = [f"{loads[count].p50_ms:.0f} / {loads[count].p99_ms:.0f} ms" for count in clients]
        costs = [f"{loads[crowd].cpu_ms:.1f} ms", f"{loads[crowd].memory_mib:.0f} MiB"]
        cells = [*rates, *latencies, *costs]
        lines.append(_line([f"**{peer}**" if peer.startswith(OURS.name) else peer, *cells]))
    return "\n".join(lines)


def faults_table(rows: Rows) -> str:
    """A row per server."""
    heads = [
        "good requests lost beside 10% broken",
        "300 at once: right, refused, failed",
        "their p50",
        "a request alone",
        "and after 80 have hung up",
        "SIGTERM, 16 in flight: right, lost",
        "ended after",
    ]
    lines = [_line(["server", *heads]), _line(["---", *["---:"] * len(heads)])]
    for row in rows:
        seen = Faults(**{key: value for key, value in row.items() if key != "peer"})
        cells = [
            f"{seen.good_lost:.0f} of {seen.good:.0f}",
            f"{seen.burst_right:.0f}, {seen.burst_refused:.0f}, {seen.burst_failed:.0f}",
            f"{seen.burst_p50_ms:.0f} ms",
            f"{seen.idle_ms:.0f} ms",
            f"{seen.after_hang_ups_ms:.0f} ms",
            f"{seen.stop_right:.0f}, {seen.stop_failed:.0f}",
            f"{seen.stop_s:.1f} s" if seen.stop_s < STOP_LIMIT_S else f"not in {STOP_LIMIT_S:.0f} s",
        ]
        lines.append(_line([f"**{row['peer']}**" if row["peer"] == OURS.name else row["peer"], *cells]))
    return "\n".join(lines)


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Rewrite README.md."""
    README.write_text(filled(README.read_text(encoding="utf-8"), parts()), encoding="utf-8")


if __name__ == "__main__":
    main()
