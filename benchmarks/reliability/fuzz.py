"""Mutants against the decoders and parsers, in this process or over HTTP; a seed gives the same mutants again.

    make fuzz ARGS="--mutants 200000 --seed 1"
    python -m benchmarks.reliability.fuzz --mutants 20000 --url http://127.0.0.1:8000

In process, a fault is any exception but a refusal, or more CPU time than ``--most-seconds``. Over HTTP, a fault is a
status of 500 or above other than 503, no answer, or another answer to a good image afterwards. Faulty mutants are
written to ``--faults``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx

from benchmarks.reliability.mutate import mutant
from service.errors import ServiceError
from service.http.json_image import parse_json_image
from service.imaging.codec import decode
from service.inference_protocol.inference_request import read_inference
from service.inference_protocol.signature import signature_of
from service.model_directory.manifest import GraphInfo
from tests.support.honest import FILES

MOST_PIXELS = 4_000_000
MOST_BYTES = 4 << 20
_LARGEST_SEED_FILE = 200_000
_STREET = Path(__file__).parents[2] / "models" / "example" / "street.jpg"
_SIGNATURE = signature_of(GraphInfo("model.onnx", "0" * 64, (2, 2)), 4)


@dataclass(frozen=True, slots=True)
class Case:
    """A mutant: its number, what reads it, the file that it comes from, and its bytes."""

    number: int
    target: str
    source: str
    data: bytes


def cases(seed: int, count: int) -> Iterator[Case]:
    """Mutants of files of every format, and of JSON."""
    files = {name: data for name, build in FILES.items() if len(data := build()) < _LARGEST_SEED_FILE}
    texts = {
        "json": b'{"image": "data:image/png;base64,iVBORw0KGgo="}',
        "v2": json.dumps(
            {"id": "a", "inputs": [{"name": "images", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0] * 12}]}
        ).encode(),
    }
    for number in range(count):
        random = Random(f"{seed} {number}")
        if random.random() < 0.9:
            source = random.choice(list(files))
            other = files[random.choice([name for name in files if name.split()[0] == source.split()[0]])]
            yield Case(number, "image", source, mutant(files[source], other, random))
        else:
            source = random.choice(list(texts))
            yield Case(number, source, source, mutant(texts[source], texts["v2"], random))


def _read_image(data: bytes) -> None:
    decode(data, max_image_bytes=MOST_BYTES, max_image_pixels=MOST_PIXELS)


READERS: dict[str, Callable[[bytes], object]] = {
    "image": _read_image,
    "json": parse_json_image,
    "v2": lambda data: read_inference(data, None, _SIGNATURE, 4),
}


def run_in_process(case: Case, most_seconds: float) -> tuple[str, bool]:
    """Outcome of a mutant, and True if that is a fault."""
    began = time.process_time()
    try:
        READERS[case.target](case.data)
        outcome, is_fault = "accepted", False
    except ServiceError as error:
        outcome, is_fault = type(error).__name__, False
    except Exception as error:
        outcome, is_fault = f"{type(error).__name__}: {error}"[:80], True
    seconds = time.process_time() - began
    return (f"{seconds:.1f} s", True) if seconds > most_seconds else (outcome, is_fault)


class Service:
    """A running service that mutants are sent to."""

    def __init__(self, url: str, model: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._model = model
        self._good = self._answer()

    def run(self, case: Case) -> tuple[str, bool]:
        """The status of a mutant, and True if that is a fault."""
        path, media_type = {
            "image": ("/segment", "application/octet-stream"),
            "json": ("/segment", "application/json"),
            "v2": (f"/v2/models/{self._model}/infer", "application/json"),
        }[case.target]
        try:
            status = self._client.post(path, content=case.data, headers={"Content-Type": media_type}).status_code
        except httpx.TransportError as error:
            return type(error).__name__, True
        return str(status), status >= 500 and status != 503

    def is_sound(self) -> bool:
        """True if a good image is answered as at the start."""
        return self._answer() == self._good

    def _answer(self) -> bytes:
        files = {"file": _STREET.read_bytes()}
        return self._client.post("/segment", files=files).raise_for_status().content


def main(arguments: list[str] | None = None) -> int:
    """Run, print the outcomes as JSON; gives the exit status."""
    options = _options(arguments)
    warnings.filterwarnings("ignore", module="PIL")
    service = Service(options.url, options.model) if options.url else None
    run = service.run if service else lambda case: run_in_process(case, options.most_seconds)
    outcomes: Counter[str] = Counter()
    faults = []
    began = time.monotonic()
    # A run that is ended early reports what it has found.
    with suppress(KeyboardInterrupt):
        for case in cases(options.seed, options.mutants):
            outcome, is_fault = run(case)
            outcomes[f"{case.target} {outcome}"] += 1
            if is_fault:
                faults.append(f"{case.number} {case.source}: {outcome}")
                _keep(options.faults, options.seed, case)
    if service and not service.is_sound():
        faults.append("a good image has another answer than before")
    report = {
        "seed": options.seed,
        "seconds": round(time.monotonic() - began),
        "cpu_seconds": round(time.process_time()),
        "mutants": outcomes.total(),
        "outcomes": dict(outcomes.most_common()),
    }
    print(json.dumps({**report, "faults": faults}, indent=1))
    return 1 if faults else 0


def _keep(folder: Path, seed: int, case: Case) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}-{case.number}").write_bytes(case.data)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000, help="number of mutants (default: 20000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the mutants (default: 0)")
    parser.add_argument("--url", help="service to send them to; without it, they are read in this process")
    parser.add_argument("--model", default="ecenet-lite0-camvid", help="its model, for v2 (default: %(default)s)")
    parser.add_argument("--most-seconds", type=float, default=1.0, help="CPU seconds of one at most (default: 1)")
    parser.add_argument("--faults", type=Path, default=Path("build/faults"), help="folder for faulty mutants")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
