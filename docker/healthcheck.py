"""Health check of the service in this container, for HEALTHCHECK: exit status 0 if it takes requests, else 1.

It asks ``/readyz`` on the port of ``ECENET_PORT``, by HTTPS where ``ECENET_TLS_CERT`` is set. Standard library only, as
it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

_TIMEOUT_S = 2.0


def connection() -> http.client.HTTPConnection:
    """A connection to the service, not opened yet."""
    port = os.environ.get("ECENET_PORT", "")
    address = ("127.0.0.1", int(port) if port.isdigit() else 8000)
    if os.environ.get("ECENET_TLS_CERT"):
        # The certificate has the name that clients use, which is not this one.
        context = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(*address, timeout=_TIMEOUT_S, context=context)
    return http.client.HTTPConnection(*address, timeout=_TIMEOUT_S)


def main() -> int:
    """0 if the service is ready; else 1, with its answer or the error on standard output, which Docker keeps."""
    try:
        asked = connection()
        asked.request("GET", "/readyz")
        answer = asked.getresponse()
        print(answer.status, answer.read().decode())
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer: {error}")
        return 1
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
