"""A client of the service, sync and async, and ``ecenet-segment``, the command line around it.

from service.client import Client

with Client("http://127.0.0.1:8000") as client:
    labels = client.segment("street.jpg").labels()                # (H, W) uint8, class ids
    summary = client.segment("street.jpg", "json", rle=True).summary()
"""

from service.client.answer import Answer
from service.client.client import AsyncClient, Client
from service.client.errors import ClientError, Refused, UnexpectedAnswer, Unreachable
from service.client.parameters import Format, ImageSource, Parameters
from service.client.retry import RetryPolicy

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Format",
    "ImageSource",
    "Parameters",
    "Refused",
    "RetryPolicy",
    "UnexpectedAnswer",
    "Unreachable",
]
