"""The front end's side: FastCGI requests over one trio stream, multiplexed.

``async with Client(stream) as client`` owns the stream. Every request on it is an
*exchange*: :meth:`Client.request` runs one from end to end, :meth:`Client.open` gives
it as streams.
"""

from trifcgi.client.client import Client
from trifcgi.client.exchange import Ending, Exchange
from trifcgi.client.head import Response, ResponseHead
from trifcgi.client.streams import InputStream, OutputStream

__all__ = [
    "Client",
    "Ending",
    "Exchange",
    "InputStream",
    "OutputStream",
    "Response",
    "ResponseHead",
]
