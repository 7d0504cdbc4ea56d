"""The browser's side: plain HTTP/1.1 over sockets, which hides nothing that a test looks at."""

import contextlib
import http.client
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

__all__ = ["HOST", "Answer", "Origin", "fetch", "open_exchange", "reset"]

HOST = "front.test"
"""The name by which every front end is asked."""

Headers = Sequence[tuple[str, str]]


@attrs.frozen
class Origin:
    """Where a site is found: a port on the loopback interface, and the prefix before the
    application's own paths (empty, or a path such as ``/app``)."""

    port: int
    prefix: str = ""


@attrs.frozen
class Answer:
    """A whole response."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    client_port: int

    def values(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The only value of a header, if there is one."""
        values = self.values(name)
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


@contextlib.contextmanager
def open_exchange(
    origin: Origin,
    target: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    length: int | None = None,
    once_connected: Callable[[], object] | None = None,
    timeout: float = 20,
) -> Iterator[http.client.HTTPConnection]:
    """Send a request, and close its connection at the end of the block.

    Args:
        origin: the site.
        target: path and query below the site's prefix, as they go on the wire.
        method: the request method.
        headers: more headers.
        body: whole, or in pieces, which go chunked.
        length: the Content-Length to announce for a body that the block sends by itself.
        once_connected: called between connecting and sending.
        timeout: the longest silence, in seconds.
    """
    connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=timeout)
    with contextlib.closing(connection):
        if once_connected is not None:
            connection.connect()
            once_connected()
        connection.putrequest(
            method, origin.prefix + target, skip_host=True, skip_accept_encoding=True
        )
        connection.putheader("Host", f"{HOST}:{origin.port}")
        for name, value in headers:
            connection.putheader(name, value)
        chunked = body is not None and not isinstance(body, bytes)
        if isinstance(body, bytes):
            connection.putheader("Content-Length", str(len(body)))
        elif chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        elif length is not None:
            connection.putheader("Content-Length", str(length))
        connection.endheaders(body, encode_chunked=chunked)
        yield connection


def fetch(
    origin: Origin,
    target: str,
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | Iterable[bytes] | None = None,
    timeout: float = 20,
) -> Answer:
    """Send a request and read the whole response (see :func:`open_exchange`).

    Raises:
        http.client.IncompleteRead: the response was cut.
    """
    with open_exchange(
        origin, target, method=method, headers=headers, body=body, timeout=timeout
    ) as connection:
        client_port = connection.sock.getsockname()[1]
        response = connection.getresponse()
        with response:
            return Answer(
                response.status,
                response.reason,
                response.getheaders(),
                response.read(),
                client_port,
            )


def reset(connection: http.client.HTTPConnection) -> None:
    """Close with an RST instead of a FIN."""
    linger_not = struct.pack("ii", 1, 0)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    connection.close()
