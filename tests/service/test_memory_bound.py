"""The bound of memory: the formula, its table, and a service under attack that stays below it."""

from __future__ import annotations

import asyncio
import io
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.reliability.attack import Target, attacks, children, serving
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
        "slots": 2 * (8 + 2 * 8) * 1000,
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
@pytest.mark.parametrize("limit", ["address space", "control group"])
def test_all_attacks_together_stay_below_the_bound(
    limit: str, tiny_model_dir: Path, request: pytest.FixtureRequest
) -> None:
    values = SMALL | {"max_image_bytes": 20 * MIB}
    options = [text for name, value in values.items() for text in ("--" + name.replace("_", "-"), str(value))]
    arguments = ["--model-dir", str(tiny_model_dir), "--engine", "onnxruntime", "--workers", "2", *options]
    settings = Settings.model_validate(values)
    slot_bytes = 32 * 64 * 3 + 3 * 8 * 16 * 4
    bound = sum(memory_bound(settings, processes=2, slot_bytes=slot_bytes).values())
    of_one = sum(
        memory_bound(settings.model_copy(update={"codec_threads": 1}), processes=1, slot_bytes=slot_bytes).values()
    )

    async def story() -> tuple[int, int, Counter[int]]:
        async with serving(arguments) as target:
            before = peaks(target)
            await send_files(target, [largest_image()] * 8)  # until all threads run
            processes = children(target.process)
            if limit == "control group":
                request.getfixturevalue("memory_group")(before + bound, [target.process, *processes])
            else:
                limit_address_space(workers(target), of_one)
            answers = await attack(target)
            assert set(processes) <= set(children(target.process))  # the kernel has killed none
            return before, peaks(target), answers

    before, after, answers = asyncio.run(story())
    assert answers[200] > 20
    assert answers[413] > 20
    assert set(answers) <= {200, 400, 413, 415, 422, 503}
    assert after - before < bound
    assert after - before > 100 * MIB


async def attack(target: Target) -> Counter[int]:
    """Make every attack twice, several at once, beside clients with honest images of the largest size."""
    waiting = iter([*attacks("").values()] * 2)

    async def make_attacks() -> None:
        for one in waiting:
            await one(target)

    files = [build() for build in ATTACKS.values()] + [largest_image()] * 40
    attacking = asyncio.gather(*(make_attacks() for _ in range(8)))
    answers = await send_files(target, files)
    await attacking
    return answers


async def send_files(target: Target, files: Sequence[bytes]) -> Counter[int]:
    """Send files from eight clients, again after a 503; gives the statuses."""
    answers: Counter[int] = Counter()
    waiting = iter(files)
    headers = {"Content-Type": "application/octet-stream"}

    async def send(client: httpx.AsyncClient) -> None:
        for file in waiting:
            status = 503
            while status == 503:
                # The attacks use up the connections of this address, and a refusal may be lost with its connection.
                with suppress(httpx.NetworkError):
                    status = (await client.post("/segment?format=overlay", content=file, headers=headers)).status_code
                answers[status] += 1

    async with httpx.AsyncClient(base_url=target.url, timeout=120) as client:
        await asyncio.gather(*(send(client) for _ in range(8)))
    return answers


@cache
def largest_image() -> bytes:
    """An honest image with as many pixels as are accepted, in the format that takes the most memory."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((2000, 2000)).convert("RGB").save(file, "WEBP", method=0)
    return file.getvalue()


def workers(target: Target) -> list[int]:
    """Ids of the processes that serve HTTP."""
    return [
        pid for pid in children(target.process) if Path(f"/proc/{pid}/comm").read_text().startswith("ecenet worker")
    ]


def limit_address_space(processes: list[int], more: int) -> None:
    """Let each process map so many bytes more than it does now."""
    assert len(processes) == 2
    for pid in processes:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + more
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))


@pytest.fixture
def memory_group() -> Iterator[Callable[[int, list[int]], None]]:
    """Puts processes and their children into a control group of their own with a limit of memory."""
    root = Path("/sys/fs/cgroup/memory")
    limit_file = "memory.limit_in_bytes" if root.is_dir() else "memory.max"
    folder = (root if root.is_dir() else root.parent) / f"ecenet-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit_file).stat()
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {error}")

    def limit(size: int, processes: list[int]) -> None:
        (folder / limit_file).write_text(str(size), encoding="ascii")
        for pid in processes:
            (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")

    yield limit
    folder.rmdir()


def peaks(target: Target) -> int:
    """Most memory that each process has had so far, added up."""
    total = 0
    for process in (target.process, *children(target.process)):
        with suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
            total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return total
