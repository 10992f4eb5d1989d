"""The long trials of a service in short forms, and what they would tell of one that fails."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from PIL import Image

from benchmarks.reliability import chaos, soak

METRICS = """
ecenet_requests_total{model="brightness",format="labels",status="200"} 5.0
ecenet_requests_total{model="none",format="none",status="400"} 2.0
ecenet_in_flight 0.0
ecenet_in_flight_pixels 0.0
"""


def account(sent: int = 7, **seen: int) -> soak.Account:
    answers = {int(status[1:]): number for status, number in seen.items()}
    return soak.Account(sent=sent, seen=Counter(answers))


def test_counts_that_add_up_are_no_mistake() -> None:
    assert soak.mistakes(account(s200=4, s400=2), METRICS) == []


@pytest.mark.parametrize(
    ("seen", "text", "mistake"),
    [
        (account(8, s200=4), METRICS, "8 requests were sent and 7 counted"),
        (account(s200=4, s400=3), METRICS, "answers that were seen, and not counted: {400: 3}"),
        (account(), METRICS.replace("flight 0.0", "flight 2.0"), "ecenet_in_flight is 2.0 at the end"),
        (account(), METRICS.replace("ecenet_in_flight_pixels 0.0\n", ""), "ecenet_in_flight_pixels is None at the end"),
    ],
)
def test_counts_that_do_not_add_up_are_told(seen: soak.Account, text: str, mistake: str) -> None:
    assert soak.mistakes(seen, text) == [mistake]


def test_a_label_is_that_of_all_pixels() -> None:
    file = io.BytesIO()
    image = Image.new("L", (4, 4), 2)
    image.save(file, "PNG")
    assert soak.label_of(file.getvalue()) == 2
    image.putpixel((1, 1), 0)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert soak.label_of(file.getvalue()) is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_short_soak_leaves_nothing_behind(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The first rest comes after 120 requests, which leave some code and caches for later.
    arguments = ["--requests", "600", "--seed", "3", "--most-growth", "0.05", "--", "--workers", workers]
    assert soak.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == []
    first, last = report["held_mib"]
    assert report["growth"] == pytest.approx(last / first - 1, abs=1e-4)
    assert report["requests"] == report["left"] + sum(report["answers"].values()) >= 600
    assert report["answers"]["200"] > 300
    assert "ecenet decoder" in report["processes_mib"]["1"]
    assert report["left"] > 0


@pytest.mark.slow
def test_a_short_chaos_of_every_fault_ends_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chaos, "choose", lambda _random, number: list(chaos.FAULTS)[:number])
    assert chaos.main(["--faults", str(len(chaos.FAULTS)), "--seed", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == dict.fromkeys(sorted(chaos.FAULTS), 1)
    assert report["problems"] == []
    assert report["requests"]["200"] > 64
