"""Put the tables of calibration.json, validation.json and results.json into README.md.

python -m benchmarks.scale.readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.scale.calibrate import describe
from benchmarks.scale.calibration import Calibration, Origin, read_calibration
from benchmarks.scale.million import ANSWER_BYTES, IMAGE_BYTES, PRICED, Assumptions, gbit_per_s, tables
from benchmarks.scale.plot import draw_cores
from benchmarks.scale.run import events_table
from benchmarks.scale.validate import read_validation, table
from k8s import sizing

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
_PLACE = re.compile(r"(<!-- (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The text with each part between the marks ``<!-- name -->`` and ``<!-- end -->``.

    Raises:
        KeyError: A mark names no part.
    """
    return _PLACE.sub(lambda place: f"{place[1]}\n{parts[place[2]]}\n\n{place[4]}", text)


def parts(folder: Path = FOLDER) -> dict[str, str]:
    """All tables by their name."""
    calibration = read_calibration(folder / "calibration.json")
    validation = read_validation(folder / "validation.json")
    compared = [row for _, rows in validation.values() for row in rows]
    origins = [f"`{name}`: {origin_text(origin)}" for name, (origin, _) in validation.items()]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {
        "calibration": _calibration(calibration),
        "validation": "\n\n".join([table(compared), *origins]),
        "events": events_table(results["rows"]),
        "inputs": _inputs(),
        "million": tables(Assumptions()),
    }


def _calibration(calibration: Calibration) -> str:
    lines = [f"- `{name}`: {describe(model)}." for name, model in calibration.models.items()]
    return "\n".join([*lines, "", origin_text(calibration.origin)])


def origin_text(origin: Origin) -> str:
    """Command, processor and commit of a measurement, as a sentence."""
    return f"`{origin.command}`, {origin.processor}, commit {origin.commit}."


def _inputs() -> str:
    given = Assumptions()
    rows = {
        "R, images a second": ("1,000,000 / 60 = 16,667", "the task"),
        "B, memory traffic of an image": (f"{sizing.MEGABYTES_PER_IMAGE} MB in fp16", "counted"),
        "share of the GPU's bandwidth": (f"{sizing.BANDWIDTH_SHARE:.0%}", "**assumed**"),
        "load in the busiest minute": (f"{given.load:.0%}", "chosen by the plots"),
        "regions, one may be lost": (f"{given.regions}: {given.spare:.2g} times the traffic", "chosen"),
        "C, CPU time of an image": (f"{1e3 * sizing.REQUEST_CORE_SECONDS_PER_IMAGE:.1f} ms of a core", "measured"),
        "E, of it in the engine process": (f"{1e3 * sizing.ENGINE_PROCESS_SECONDS_PER_IMAGE:.1f} ms", "measured"),
        "network in": (f"{IMAGE_BYTES / 1e3:.0f} kB: {gbit_per_s(IMAGE_BYTES):.1f} Gbit/s", "the example street"),
        "network out": (f"{ANSWER_BYTES / 1e3:.0f} kB: {gbit_per_s(ANSWER_BYTES):.1f} Gbit/s", "its answer"),
        "a core for an hour": (f"{given.core_price_per_h:.2f} USD", "**assumed**"),
    }
    for gpu in PRICED:
        rows[f"{gpu.name}, bandwidth"] = (f"{gpu.gb_per_s:,.0f} GB/s", "published")
        rows[f"{gpu.name} for an hour"] = (f"{gpu.dollars_per_hour:.2f} USD", "**assumed**")
    lines = [f"| {name} | {value} | {source} |" for name, (value, source) in rows.items()]
    return "\n".join(["| input | value | from |", "| --- | --- | --- |", *lines])


def main() -> None:
    """Rewrite README.md, and draw what needs no results."""
    draw_cores(FOLDER / "cores.png")
    README.write_text(filled(README.read_text(encoding="utf-8"), parts()), encoding="utf-8")


if __name__ == "__main__":
    main()
