"""Requests without TLS to services of the tests, a connection for each.

httpx's own ``get`` and ``post`` load the machine's certificates for each call, which takes 70 ms.
"""

from __future__ import annotations

import httpx

from tests.support.limits import HANG_S

_CLIENT = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=HANG_S, trust_env=False)

get = _CLIENT.get
post = _CLIENT.post
