"""The bound of memory: the formula, its table, and a service under attack that stays below it."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.reliability.attack import Target, children, serving
from service.memory_bound import memory_bound
from service.settings import Settings
from tests.support.hostile import ATTACKS

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")
MIB = 1 << 20
SMALL = {
    "max_image_pixels": 4_000_000,
    "max_image_bytes": 2 * MIB,
    "max_requests_in_flight": 8,
    "max_connections": 64,
    "codec_threads": 2,
    "cache_bytes": 4 * MIB,
    "max_many_images_bytes": 8 * MIB,
    "many_images_memory_bytes": 16 * MIB,
}


def test_each_part_follows_from_its_settings() -> None:
    settings = Settings.model_validate(SMALL)
    assert memory_bound(settings, processes=2, slot_bytes=1000) == {
        "connections": 64 * 128 * 1024,
        "bodies": (8 + 4) * 2 * MIB,
        "decoding and encoding": 2 * (64_000_000 + 76 * MIB),
        "decode processes": 2 * 64 * MIB,
        "slots": 8000,
        "unread answers": 256 * MIB + 2 * 16_000_000,
        "many images": (16 + 2 * 8) * MIB,
        "cached answers": 4 * MIB,
    }


def test_the_largest_answer_of_small_images_is_one_of_polygons() -> None:
    settings = Settings.model_validate(SMALL | {"max_image_pixels": 1_000_000})
    bound = memory_bound(settings, processes=2, slot_bytes=0)
    assert bound["unread answers"] == 256 * MIB + 2 * 24 * 500_000


def test_each_process_has_a_thread_at_least() -> None:
    one, four = (
        memory_bound(Settings(codec_threads=2), processes=processes, slot_bytes=0)["decode processes"]
        for processes in (1, 4)
    )
    assert four == 2 * one


def test_the_table_has_the_bound_of_the_defaults() -> None:
    bound = memory_bound(Settings(codec_threads=2), processes=2, slot_bytes=MIB)
    for part, size in bound.items():
        assert f"| {part} | {size / MIB:,.0f} |" in SECURITY
    assert f"| all together | {sum(bound.values()) / MIB:,.0f} |" in SECURITY


@pytest.mark.slow
def test_all_attacks_together_stay_below_the_bound(tiny_model_dir: Path) -> None:
    options = [text for name, value in SMALL.items() for text in ("--" + name.replace("_", "-"), str(value))]
    arguments = ["--model-dir", str(tiny_model_dir), "--engine", "onnxruntime", "--workers", "2", *options]

    async def story() -> tuple[int, int, Counter[int]]:
        async with serving(arguments) as target:
            before = peaks(target)
            answers = await attack(target)
            return before, peaks(target), answers

    before, after, answers = asyncio.run(story())
    assert answers[200] > 0
    assert answers[413] > 0
    settings = Settings.model_validate(SMALL)
    bound = sum(memory_bound(settings, processes=2, slot_bytes=32 * 64 * 3 + 3 * 8 * 16 * 4).values())
    assert after - before < bound
    assert after - before > 20 * MIB


async def attack(target: Target) -> Counter[int]:
    """Send all hostile files, and honest ones of the largest size, from many clients at once; gives the statuses."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((2000, 2000)).convert("RGB").save(file, "WEBP", method=0)
    bodies = [build()[: 3 * MIB] for build in ATTACKS.values()] + [file.getvalue()] * 40
    answers: Counter[int] = Counter()
    async with httpx.AsyncClient(base_url=target.url, timeout=120) as client, asyncio.TaskGroup() as group:
        waiting = iter(bodies)
        headers = {"Content-Type": "application/octet-stream"}

        async def send() -> None:
            for body in waiting:
                with suppress(httpx.TransportError):
                    answer = await client.post("/segment?format=overlay", content=body, headers=headers)
                    answers[answer.status_code] += 1

        for _ in range(16):
            group.create_task(send())
    return answers


def peaks(target: Target) -> int:
    """Most memory that each process has had so far, added up."""
    total = 0
    for process in (target.process, *children(target.process)):
        with suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
            total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return total
