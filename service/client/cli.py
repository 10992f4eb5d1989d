"""``ecenet-segment``: images, folders of them and videos to results, by a running service or in this process."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

from tqdm import tqdm

from service.client.bulk import Report, segment_all
from service.client.client import TIMEOUT_S, AsyncClient
from service.client.errors import ClientError
from service.client.jobs import Failure, Job, plan_jobs
from service.client.parameters import Format, Parameters
from service.client.retry import RetryPolicy
from service.client.video import segment_video

API_KEY_VARIABLE = "ECENET_API_KEY"
LABEL_STUDIO_VARIABLE = "LABEL_STUDIO_API_KEY"
INTERRUPTED = 130

_EPILOG = """\
The result of street.jpg is DIR/street.jpg.labels.png, or what the format ends with. Results that are there already are
skipped, so the same command goes on where it was stopped; --overwrite makes them again.

examples:
  ecenet-segment photos/ -o labels/
  ecenet-segment a.jpg b.png -o out/ --format overlay --alpha 0.4 --url http://127.0.0.1:8000
  ecenet-segment drive.mp4 -o out/ --format overlay
  ecenet-segment --label-studio http://localhost:8080 --url http://localhost:8000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment what the command line names.

    Returns:
        0 if every result is there, 1 if one is missing, 130 after Ctrl-C.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.label_studio is None and not (args.images and args.output):
        parser.error("IMAGE and -o DIR are required, or --label-studio URL")
    try:
        return _serve_label_studio(args) if args.label_studio else _run(args)
    except KeyboardInterrupt:
        _tell("stopped; the same command goes on from here")
        return INTERRUPTED


def _run(args: argparse.Namespace) -> int:
    jobs, failures = plan_jobs(args.images, args.output, args.format)
    wanted = jobs if args.overwrite else [job for job in jobs if not job.target.exists()]
    report = Report()
    if wanted:
        try:
            report = asyncio.run(_segment(wanted, args))
        except (ClientError, OSError) as error:
            _tell(f"ecenet-segment: {error}")
            return 1
    report = replace(report, failures=[*failures, *report.failures])
    _tell_report(report, len(jobs) - len(wanted))
    return 1 if report.failures or report.untried else 0


def _serve_label_studio(args: argparse.Namespace) -> int:
    """Answer Label Studio until Ctrl-C."""
    import httpx  # noqa: PLC0415  with what follows for this option alone
    import uvicorn  # noqa: PLC0415

    from service.client.label_studio import Images, create_backend  # noqa: PLC0415

    async def serve() -> None:
        studio = httpx.AsyncClient(base_url=args.label_studio, follow_redirects=True, timeout=args.timeout_s)
        async with _client(args) as client, studio as http:
            images = Images(http, os.environ.get(LABEL_STUDIO_VARIABLE, ""))
            # What a person corrects has few corners.
            app = create_backend(client, images, {"simplify": 1.0, **_parameters(args)})
            host, port = args.listen
            _tell(f"connect http://{host}:{port} as a model of the project in Label Studio")
            await uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning")).serve()

    try:
        asyncio.run(serve())
    except ClientError as error:
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


def _api_key(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    return path.read_text(encoding="utf-8").strip()


def _parameters(args: argparse.Namespace) -> Parameters:
    """Those that were given; the service knows the others' defaults."""
    given = {name: getattr(args, name) for name in Parameters.__annotations__}
    return cast(Parameters, {name: value for name, value in given.items() if value is not None})


def _tell_report(report: Report, skipped: int) -> None:
    for failure in report.failures:
        _tell(f"failed: {failure.path}: {failure.reason}")
    counts = {
        "written": report.written,
        "there already": skipped,
        "failed": len(report.failures),
        "not tried": report.untried,
    }
    _tell(", ".join(f"{count} {what}" for what, count in counts.items()))


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ecenet-segment",
        description="Segment images: files, or folders with all images below them; and videos.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "images", type=Path, nargs="*", metavar="IMAGE", help="image file, video file, or folder of images"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--overwrite", action="store_true", help="make results again that are there already")
    parser.add_argument("--concurrency", type=_positive, default=4, metavar="N", help="images at once. Default: 4.")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_parameters(parser.add_argument_group("result, as in POST /segment"))
    _add_service(parser.add_argument_group("service"))
    _add_label_studio(parser.add_argument_group("drafts for Label Studio, in place of images"))
    return parser


def _add_parameters(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--format", choices=get_args(Format), default="labels", help="Default: labels.")
    group.add_argument("--model", metavar="NAME", help="which of the models; the service's default if not given")
    group.add_argument("--palette", choices=["classes", "none"], help="of labels: the classes' colours, or grey")
    group.add_argument("--alpha", type=float, metavar="0..1", help="of overlay: weight of the colours")
    group.add_argument("--classes", metavar="NAMES", help="keep only these: names or ids, separated by commas")
    group.add_argument("--size", choices=["input", "model"], help="of the result: the image's, or the model's input's")
    group.add_argument("--mode", choices=["resize", "tile"], help="tile: overlapping windows, for large images")
    group.add_argument("--background", metavar="COLOR", help="behind transparent pixels")
    group.add_argument("--rle", action="store_const", const=True, help="of json: masks as run lengths")
    group.add_argument("--simplify", type=float, metavar="PIXELS", help="of polygons: drop corners as near as this")
    group.add_argument("--name", help="of labelme, coco, labelstudio: the image's path or address in the tool")


def _add_service(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--url", help="running service; without one the model runs in this process")
    group.add_argument("--model-dir", type=Path, metavar="DIR", help="model, or folder of models, to run here")
    group.add_argument("--retries", type=_count, default=5, metavar="N", help="further tries per image. Default: 5.")
    group.add_argument(
        "--timeout-s", type=float, default=TIMEOUT_S, metavar="S", help=f"wait for an answer. Default: {TIMEOUT_S:g}."
    )
    group.add_argument("--request-timeout-ms", type=_positive, metavar="MS", help="time that the service is given")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help=f"holds the key; else {API_KEY_VARIABLE}")


def _add_label_studio(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--label-studio", metavar="URL", help=f"answer this Label Studio; its token is in {LABEL_STUDIO_VARIABLE}"
    )
    group.add_argument(
        "--listen",
        type=_address,
        default=("127.0.0.1", 9090),
        metavar="HOST:PORT",
        help="where it asks. Default: 127.0.0.1:9090.",
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or _count(port) > 65535:
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)


def _positive(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("it is 0, expected 1 or more")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"it is {text!r}, expected a whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
