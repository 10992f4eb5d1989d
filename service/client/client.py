"""The clients. One script holds requests and waits; ``Client`` and ``AsyncClient`` only run it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack

import httpx

from service.client.answer import Answer, parse_server_timing
from service.client.errors import Refused, Unreachable
from service.client.options import MAX_PORT, TIMEOUT_S, Format, Parameters
from service.client.parameters import ImageSource, query_of, read_image
from service.client.retry import RETRIED_STATUSES, RetryPolicy, retry_after_s

_DEFAULT_RETRY = RetryPolicy()

# A script yields a request to send, or seconds to wait, and receives the outcome of the request.
Step = httpx.Request | float
Outcome = httpx.Response | httpx.HTTPError | None
Script = Generator[Step, Outcome, Answer]
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class ClientOptions(TypedDict, total=False):
    """Options of both clients.

    Attributes:
        api_key: The key, where the service asks for one.
        timeout_s: Seconds to wait for a connection, and for the next byte of an answer.
        request_timeout_ms: Milliseconds that the service has for an answer; its own default if not given.
        retry: How long to wait for a service that is busy or away.
    """

    api_key: str | None
    timeout_s: float
    request_timeout_ms: int | None
    retry: RetryPolicy


class _Scripts(Generic[Http]):
    """Requests and what follows from their answers, without sending or waiting."""

    def __init__(self, url: str, http: Http, **options: Unpack[ClientOptions]) -> None:
        self.url = url.rstrip("/").removesuffix("/segment") + "/segment"
        self._http: Http = http
        self._retry = options.get("retry", _DEFAULT_RETRY)
        self._headers = {"Content-Type": "application/octet-stream"}
        if (api_key := options.get("api_key")) is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        if (request_timeout_ms := options.get("request_timeout_ms")) is not None:
            self._headers["X-Request-Timeout-Ms"] = str(request_timeout_ms)
        self._has_answered = False

    def _segment_script(self, image: bytes, answer_format: Format, parameters: Parameters) -> Script:
        """Send the request until it is answered with something else than to try later."""
        tries = 0
        while True:
            tries += 1
            outcome = yield self._request(image, answer_format, parameters)
            if isinstance(outcome, httpx.Response):
                self._has_answered = True
                if outcome.is_success:
                    return self._answer(outcome)
            yield self._wait_s(outcome, tries)

    def _request(self, image: bytes, answer_format: Format, parameters: Parameters) -> httpx.Request:
        query = query_of(answer_format, parameters)
        try:
            request = self._http.build_request("POST", self.url, params=query, content=image, headers=self._headers)
        except httpx.InvalidURL as error:
            raise Unreachable(f"{self.url} cannot be reached: {error}") from error
        if (port := request.url.port or 0) > MAX_PORT:
            raise Unreachable(f"{self.url} cannot be reached: port {port} is above {MAX_PORT}")
        return request

    def _answer(self, response: httpx.Response) -> Answer:
        headers = response.headers
        return Answer(
            self.url,
            response.content,
            headers.get("content-type", ""),
            headers.get("x-request-id"),
            headers.get("x-model-version"),
            parse_server_timing(headers.get("server-timing", "")),
        )

    def _wait_s(self, outcome: Outcome, tries: int) -> float:
        """Seconds until the next try.

        Raises:
            Refused, Unreachable: There is none.
        """
        wait_s = self._retry.wait_s(tries, random.random)
        if not isinstance(outcome, httpx.Response):
            # Where nothing has ever answered, the address is wrong rather than the service away for a moment.
            is_away = self._has_answered and not isinstance(outcome, httpx.ReadTimeout | httpx.UnsupportedProtocol)
            if is_away and tries < self._retry.max_tries:
                return wait_s
            raise self._unreachable(outcome) from outcome
        if outcome.status_code not in RETRIED_STATUSES or tries >= self._retry.max_tries:
            raise self._refused(outcome, "answered")
        asked_s = retry_after_s(outcome.headers.get("retry-after"))
        if asked_s is not None and asked_s > self._retry.max_wait_s:
            limit = f"at most {self._retry.max_wait_s:.0f} are waited"
            raise self._refused(outcome, f"asks to wait {asked_s:.0f} s, {limit}:")
        return wait_s if asked_s is None else asked_s

    def _unreachable(self, error: httpx.HTTPError | None) -> Unreachable:
        if isinstance(error, httpx.ReadTimeout):
            return Unreachable(f"{self.url} gave no answer in {self._http.timeout.read or 0:g} s")
        return Unreachable(f"{self.url} cannot be reached: {str(error) or type(error).__name__}")

    def _refused(self, response: httpx.Response, did: str) -> Refused:
        members = _members(response)
        detail = str(members.get("detail") or response.text[:200])
        request_id = members.get("request_id") or response.headers.get("x-request-id")
        return Refused(
            f"{self.url} {did} {response.status_code} {response.reason_phrase}: {detail}",
            status=response.status_code,
            title=str(members.get("title") or response.reason_phrase),
            detail=detail,
            request_id=request_id,
            members=members,
        )


class Client(_Scripts[httpx.Client]):
    """Segments images by a running service; may be shared by threads."""

    def __init__(
        self,
        url: str,
        *,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
        **options: Unpack[ClientOptions],
    ) -> None:
        """Connect at the first request.

        Args:
            url: The service, e.g. ``http://127.0.0.1:8000``; with or without ``/segment``.
            http: A client to use in place of a new one; its time-outs replace ``timeout_s``.
            sleep: Waits some seconds.
            options: See ``ClientOptions``.
        """
        super().__init__(url, http or httpx.Client(timeout=options.get("timeout_s", TIMEOUT_S)), **options)
        self._sleep = sleep

    def segment(self, image: ImageSource, answer_format: Format = "labels", **parameters: Unpack[Parameters]) -> Answer:
        """Segment an image: its file's bytes or path, or its pixels (H, W, 3) uint8 RGB.

        Raises:
            Refused: The service answered with an error, after further tries where those could help.
            Unreachable: No answer came.
            OSError, ValueError: An image that cannot be read or sent.
        """
        script = self._segment_script(read_image(image), answer_format, parameters)
        outcome: Outcome = None
        while True:
            try:
                step = script.send(outcome)
            except StopIteration as end:
                return _result(end)
            outcome = self._do(step)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, step: Step) -> Outcome:
        if not isinstance(step, httpx.Request):
            self._sleep(step)
            return None
        try:
            return self._http.send(step)
        except httpx.HTTPError as error:
            return error


class AsyncClient(_Scripts[httpx.AsyncClient]):
    """Segments images by a running service, from asyncio."""

    def __init__(
        self,
        url: str,
        *,
        http: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **options: Unpack[ClientOptions],
    ) -> None:
        """See ``Client``."""
        super().__init__(url, http or httpx.AsyncClient(timeout=options.get("timeout_s", TIMEOUT_S)), **options)
        self._sleep = sleep

    async def segment(
        self, image: ImageSource, answer_format: Format = "labels", **parameters: Unpack[Parameters]
    ) -> Answer:
        """See ``Client.segment``; to cancel hangs up, and the service drops the work."""
        data = image if isinstance(image, bytes) else await asyncio.to_thread(read_image, image)
        script = self._segment_script(data, answer_format, parameters)
        outcome: Outcome = None
        while True:
            try:
                step = script.send(outcome)
            except StopIteration as end:
                return _result(end)
            outcome = await self._do(step)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _do(self, step: Step) -> Outcome:
        if not isinstance(step, httpx.Request):
            await self._sleep(step)
            return None
        try:
            return await self._http.send(step)
        except httpx.HTTPError as error:
            return error


def _result(end: StopIteration) -> Answer:
    answer: Answer = end.value
    return answer


def _members(response: httpx.Response) -> dict[str, Any]:
    """Members of the problem document; none where the body is something else."""
    try:
        document = response.json()
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
