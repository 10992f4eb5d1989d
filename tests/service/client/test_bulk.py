"""Many images at once: failures are collected, results are whole or not there, and the hopeless is not tried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client.bulk import Report, segment_all
from service.client.jobs import Job
from service.client.options import Parameters
from service.model_directory.files import write_whole
from tests.support.replies import MakeAsyncClient, MakeProblem

MakeJobs = Callable[[int], list[Job]]
NPY = b"\x93NUMPY"


@pytest.fixture
def jobs(tmp_path: Path) -> MakeJobs:
    """Makes images whose bytes are their numbers."""

    def make(count: int) -> list[Job]:
        made = [
            Job(tmp_path / f"{number}.png", tmp_path / "out" / f"{number}.bin", f"{number}.png")
            for number in range(count)
        ]
        for number, job in enumerate(made):
            job.source.write_bytes(str(number).encode())
        return made

    return make


@pytest.fixture
def segment(async_client: MakeAsyncClient) -> Callable[..., Any]:
    """Does jobs by a function; tells the report, and how many images were told to have ended."""

    async def run(jobs: list[Job], service: Callable[[httpx.Request], Any], at_once: int = 2) -> tuple[Report, int]:
        ended: list[int] = []
        async with async_client(service) as client:
            report = await segment_all(
                jobs, client, "npy", {"size": "model"}, concurrency=at_once, on_end=lambda: ended.append(1)
            )
        return report, len(ended)

    return run


def doubled(request: httpx.Request) -> httpx.Response:
    assert dict(request.url.params) == {"format": "npy", "size": "model"}
    return httpx.Response(200, content=NPY + request.content * 2)


@pytest.mark.anyio
async def test_every_result_is_written_by_itself(jobs: MakeJobs, segment: Callable[..., Any], tmp_path: Path) -> None:
    asked = jobs(5)
    report, ended = await segment(asked, doubled)
    assert (report, ended) == (Report(written=5), 5)
    assert [job.target.read_bytes() for job in asked] == [NPY + two for two in (b"00", b"11", b"22", b"33", b"44")]
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.anyio
@pytest.mark.parametrize(("given", "expected"), [({}, ["0.png", "1.png"]), ({"name": "a"}, ["a", "a"])])
async def test_files_of_annotation_tools_name_their_images(
    given: Parameters, expected: list[str], jobs: MakeJobs, async_client: MakeAsyncClient
) -> None:
    names = []

    def service(request: httpx.Request) -> httpx.Response:
        names.append(request.url.params["name"])
        return httpx.Response(200, content=b"{}")

    async with async_client(service) as client:
        await segment_all(jobs(2), client, "labelme", given, concurrency=1, on_end=lambda: None)
    assert names == expected


@pytest.mark.anyio
async def test_a_failed_image_costs_no_other(jobs: MakeJobs, segment: Callable[..., Any], problem: MakeProblem) -> None:
    asked = jobs(5)
    asked[1].source.unlink()

    def service(request: httpx.Request) -> httpx.Response:
        return problem(400, detail="no image") if request.content == b"3" else doubled(request)

    report, ended = await segment(asked, service)
    assert (report.written, report.untried, ended) == (3, 0, 5)
    assert [failure.path for failure in report.failures] == [asked[1].source, asked[3].source]
    assert "No such file" in report.failures[0].reason
    assert "answered 400 Bad Request: no image" in report.failures[1].reason
    assert [job.target.exists() for job in asked] == [True, False, True, False, True]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"<html>log in</html>", "text/html", "no npy: 19 bytes of type 'text/html' that start with b'<html>lo'"),
        (b'{"a": 1}', "application/json", "no npy: 8 bytes"),
        (b"", "application/x-npy", "no npy: 0 bytes"),
    ],
)
async def test_what_is_not_the_format_is_not_written(
    body: bytes, kind: str, words: str, jobs: MakeJobs, segment: Callable[..., Any]
) -> None:
    asked = jobs(2)
    report, ended = await segment(asked, lambda _: httpx.Response(200, content=body, headers={"content-type": kind}))
    assert (report.written, [words in failure.reason for failure in report.failures], ended) == (0, [True, True], 2)
    assert [job.target.exists() for job in asked] == [False, False]


@pytest.mark.anyio
async def test_a_name_that_is_not_in_utf_8_costs_its_image_alone(jobs: MakeJobs, async_client: MakeAsyncClient) -> None:
    first, second = jobs(2)
    named = replace(first, name="bad\udcff.png")
    async with async_client(lambda _: httpx.Response(200, content=b"{}")) as client:
        report = await segment_all([named, second], client, "labelme", {}, concurrency=1, on_end=lambda: None)
    assert [failure.reason for failure in report.failures] == [r"name is 'bad\udcff.png', which is not in UTF-8"]
    assert (report.written, second.target.read_bytes()) == (1, b"{}")


@pytest.mark.anyio
async def test_a_service_that_goes_away_ends_the_work(
    jobs: MakeJobs, segment: Callable[..., Any], waits: list[float]
) -> None:
    asked = jobs(10)
    received: list[bytes] = []

    def service(request: httpx.Request) -> httpx.Response:
        received.append(request.content)
        if len(received) > 4:
            raise httpx.ConnectError("refused")
        return doubled(request)

    report, ended = await segment(asked, service, at_once=1)
    assert report.written == 4
    (failure,) = report.failures
    assert failure.path == asked[4].source
    assert "cannot be reached: refused" in failure.reason
    assert report.untried == 5
    assert ended == 5
    assert len(waits) == 5


@pytest.mark.anyio
@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_without_access_nothing_more_is_tried(
    status: int, jobs: MakeJobs, segment: Callable[..., Any], problem: MakeProblem
) -> None:
    report, _ = await segment(jobs(10), lambda _: problem(status), at_once=1)
    assert (report.written, len(report.failures), report.untried) == (0, 1, 9)


@pytest.mark.anyio
async def test_at_most_so_many_are_sent_at_once(jobs: MakeJobs, segment: Callable[..., Any]) -> None:
    inside = most = 0

    async def service(request: httpx.Request) -> httpx.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.001)
        inside -= 1
        return doubled(request)

    await segment(jobs(6), service)
    assert most == 2


@pytest.mark.anyio
async def test_to_cancel_leaves_whole_results_only(jobs: MakeJobs, segment: Callable[..., Any], tmp_path: Path) -> None:
    stuck = asyncio.Event()

    async def service(request: httpx.Request) -> httpx.Response:
        if request.content == b"3":
            stuck.set()
            await asyncio.Event().wait()
        return doubled(request)

    task = asyncio.create_task(segment(jobs(4), service))
    await stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()
    results = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(results) <= {"0.bin", "1.bin", "2.bin"}
    assert all(content == NPY + name[:1].encode() * 2 for name, content in results.items())


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new" / "a.png"
    target.parent.mkdir()
    target.write_bytes(b"the result before")

    def write_half(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:3])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            write_whole(target, b"the result after")
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"the result before"
    write_whole(target, b"the result after")
    assert target.read_bytes() == b"the result after"
