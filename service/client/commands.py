"""The work of ``ecenet-segment``, as its command line asks for it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

from tqdm import tqdm

from service.client.bulk import Report, segment_all
from service.client.client import AsyncClient
from service.client.errors import ClientError, UnusableOption
from service.client.jobs import Failure, Job, plan_jobs
from service.client.options import API_KEY_VARIABLE, LABEL_STUDIO_VARIABLE, MAX_PORT, Parameters
from service.client.retry import RetryPolicy
from service.client.video import segment_video
from service.logs import escape


def segment(args: argparse.Namespace) -> int:
    """Segment the images and videos that are named; gives the exit status."""
    jobs, failures = plan_jobs(args.images, args.output, args.format)
    wanted = jobs if args.overwrite else [job for job in jobs if not _is_there(job.target)]
    report = Report()
    if wanted:
        try:
            _check_output(args.output)
            report = asyncio.run(_segment(wanted, args))
        except (ClientError, OSError) as error:
            _tell(f"ecenet-segment: {error}")
            return 1
    report = replace(report, failures=[*failures, *report.failures])
    _tell_report(report, len(jobs) - len(wanted))
    return 1 if report.failures or report.untried else 0


def serve_label_studio(args: argparse.Namespace) -> int:
    """Answer Label Studio until Ctrl-C."""
    import httpx  # noqa: PLC0415  for this option alone, with its dependencies
    import uvicorn  # noqa: PLC0415

    from service.client.label_studio import Images, create_backend  # noqa: PLC0415

    async def serve() -> None:
        address = _studio_address(args.label_studio)
        studio = httpx.AsyncClient(base_url=address, follow_redirects=True, timeout=args.timeout_s)
        async with _client(args) as client, studio as http:
            images = Images(http, os.environ.get(LABEL_STUDIO_VARIABLE, ""))
            # What a person corrects has few corners.
            app = create_backend(client, images, {"simplify": 1.0, **_parameters(args)})
            host, port = args.listen
            _tell(f"connect http://{host}:{port} as a model of the project in Label Studio")
            await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()

    try:
        asyncio.run(serve())
    except (ClientError, OSError) as error:
        _tell(f"ecenet-segment: {error}")
        return 1
    return 0


async def _segment(jobs: Sequence[Job], args: argparse.Namespace) -> Report:
    images = [job for job in jobs if not job.is_video]
    videos = [job for job in jobs if job.is_video]
    async with _client(args) as client:
        with _bar(args, total=len(images), unit="image") as bar:
            report = await segment_all(
                images,
                client,
                args.format,
                _parameters(args),
                concurrency=args.concurrency,
                on_end=bar.update,
            )
        if report.untried:
            return replace(report, untried=report.untried + len(videos))
        for job in videos:
            await _segment_video(job, client, args, report)
        return report


async def _segment_video(job: Job, client: AsyncClient, args: argparse.Namespace, report: Report) -> None:
    with _bar(args, desc=job.source.name, unit="frame") as bar:
        try:
            await segment_video(
                job,
                client,
                args.format,
                _parameters(args),
                concurrency=args.concurrency,
                on_start=lambda frames: bar.reset(frames or None),
                on_frame=bar.update,
            )
            report.written += 1
        except (ClientError, OSError) as error:
            report.failures.append(Failure(job.source, str(error)))


def _bar(args: argparse.Namespace, **options: Any) -> tqdm[NoReturn]:
    """Progress and rate on a terminal."""
    hidden = args.quiet or options.get("total") == 0
    return tqdm(disable=True if hidden else None, **options)


@asynccontextmanager
async def _client(args: argparse.Namespace) -> AsyncIterator[AsyncClient]:
    retry = RetryPolicy(max_tries=1 + args.retries)
    if args.url is None:
        from service.local import URL, local_http  # noqa: PLC0415  a remote service needs no model runtime

        async with local_http(args.model_dir, args.concurrency, args.model) as http:
            yield AsyncClient(URL, http=http, retry=retry)
        return
    async with AsyncClient(
        args.url,
        api_key=_api_key(args.api_key_file),
        timeout_s=args.timeout_s,
        request_timeout_ms=args.request_timeout_ms,
        retry=retry,
    ) as client:
        yield client


def _studio_address(text: str) -> str:
    """The address of a Label Studio.

    Raises:
        UnusableOption: It is none of HTTP.
    """
    import httpx  # noqa: PLC0415

    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UnusableOption(f"--label-studio is {text!r}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > MAX_PORT:
        raise UnusableOption(f"--label-studio is {text!r}, expected http://HOST[:PORT] or https://HOST[:PORT]")
    return text


def _is_there(result: Path) -> bool:
    """True for a result that exists; a path that the file system refuses fails once it is written."""
    try:
        return result.exists()
    except OSError:
        return False


def _check_output(folder: Path) -> None:
    """Refuse a file in place of the folder of the results, before an image is sent."""
    if folder.exists() and not folder.is_dir():
        raise UnusableOption(f"-o is {folder}, which is not a folder")


def _api_key(path: Path | None) -> str | None:
    """The key for a header.

    Raises:
        UnusableOption: It is empty, or a header cannot have it.
        OSError: The file cannot be read.
    """
    if path is not None:
        source, key = str(path), path.read_bytes().decode(errors="replace").strip()
    elif key := os.environ.get(API_KEY_VARIABLE, ""):
        source = API_KEY_VARIABLE
    else:
        return None
    if not (key and key.isascii() and key.isprintable()):
        raise UnusableOption(f"the API key of {source} is empty, or not one line of printable ASCII characters")
    return key


def _parameters(args: argparse.Namespace) -> Parameters:
    """Those that were given; the service knows the others' defaults."""
    given = {name: getattr(args, name) for name in Parameters.__annotations__}
    return cast(Parameters, {name: value for name, value in given.items() if value is not None})


def _tell_report(report: Report, skipped: int) -> None:
    for failure in report.failures:
        _tell(escape(f"failed: {failure.path}: {failure.reason}"))
    counts = {
        "written": report.written,
        "there already": skipped,
        "failed": len(report.failures),
        "not tried": report.untried,
    }
    _tell(", ".join(f"{count} {what}" for what, count in counts.items()))


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
