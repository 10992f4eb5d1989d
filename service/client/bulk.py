"""Many images through a client: several at once, each result complete or absent, failures collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from service.answers.schemas import ANNOTATIONS, MAX_NAME
from service.client.client import AsyncClient
from service.client.errors import ClientError, Refused, Unreachable
from service.client.jobs import Failure, Job
from service.client.options import Format, Parameters
from service.model_directory.files import write_whole

# Answers that every further image would get as well: no access, or another kind of server.
_HOPELESS_STATUSES = frozenset({401, 403, 404, 405})


@dataclass(slots=True)
class Report:
    """The outcome of the jobs.

    Attributes:
        written: Results that were written.
        failures: Images without a result, and why.
        untried: Images that were not sent, because it was clear that none would be answered.
    """

    written: int = 0
    failures: list[Failure] = field(default_factory=list)
    untried: int = 0


async def segment_all(
    jobs: Sequence[Job],
    client: AsyncClient,
    answer_format: Format,
    parameters: Parameters,
    *,
    concurrency: int,
    on_end: Callable[[], object],
) -> Report:
    """Do all jobs, ``concurrency`` at once; to cancel leaves no partial result.

    Args:
        jobs: Images and where results go.
        client: Whom to ask.
        answer_format: What to ask for.
        parameters: Of every request.
        concurrency: Images that are with the service at once.
        on_end: Called after each image, done or failed.
    """
    report = Report()
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            try:
                answer = await client.segment(job.source, answer_format, **_named(parameters, answer_format, job))
                answer.check(answer_format)
                await asyncio.to_thread(write_whole, job.target, answer.content)
                report.written += 1
            except (ClientError, OSError, ValueError) as error:
                report.failures.append(Failure(job.source, str(error)))
                if _is_hopeless(error):
                    report.untried += _count(waiting)
            on_end()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(jobs))):
            group.create_task(work())
    return report


def _named(parameters: Parameters, answer_format: Format, job: Job) -> Parameters:
    """The parameters of a job: files of annotation tools name its image."""
    if answer_format in ANNOTATIONS and "name" not in parameters:
        return {**parameters, "name": job.name[-MAX_NAME:]}
    return parameters


def _is_hopeless(error: Exception) -> bool:
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in _HOPELESS_STATUSES)


def _count(rest: Iterator[Job]) -> int:
    return sum(1 for _ in rest)
