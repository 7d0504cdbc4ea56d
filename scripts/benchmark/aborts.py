"""How soon an abort is answered: ``python -m benchmark.aborts ADDRESS RUNNING COUNT``.

Begins so many requests, each on a connection of its own, whose handler says that it runs and then
never ends by itself. Then, one after the other, sends FCGI_ABORT_REQUEST for one of them, waits
for its FCGI_END_REQUEST, and begins another in its place. Prints the latencies, in milliseconds,
as JSON.
"""

import json
import socket
import sys
import time
from collections.abc import Callable

from .load import connect
from .wire import ABORT_REQUEST, END_REQUEST, fastcgi_request, record

_REQUEST = fastcgi_request()
_ABORT = record(ABORT_REQUEST, 1, b"")
_TIMEOUT = 10.0


def has_ended(data: bytes) -> bool:
    """Whether the records end with FCGI_END_REQUEST, whole."""
    at = 0
    while len(data) >= at + 8:
        length = 8 + int.from_bytes(data[at + 4 : at + 6]) + data[at + 6]
        if data[at + 1] == END_REQUEST:
            return len(data) >= at + length
        at += length
    return False


def _runs(data: bytes) -> bool:
    return b"running" in data


def _exchange(connection: socket.socket, data: bytes, whole: Callable[[bytes], bool]) -> None:
    """Send, and receive until that is whole."""
    connection.sendall(data)
    received = b""
    while not whole(received):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError(f"closed in place of an answer: {received!r}")
        received += piece


def main() -> None:
    """Run as the module's docstring says."""
    address, running, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    connections = []
    for _ in range(running):
        connection = connect(address)
        connection.settimeout(_TIMEOUT)
        _exchange(connection, _REQUEST, _runs)
        connections.append(connection)
    latencies = []
    for number in range(count):
        connection = connections[number % running]
        started = time.perf_counter()
        _exchange(connection, _ABORT, has_ended)
        latencies.append((time.perf_counter() - started) * 1000)
        _exchange(connection, _REQUEST, _runs)
    print(json.dumps(latencies))


if __name__ == "__main__":
    main()
