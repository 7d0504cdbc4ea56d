"""How soon an abort is answered: ``python -m benchmark.aborts ADDRESS RUNNING COUNT``.

Begins so many requests, each on a connection of its own, whose handler never ends by itself.
Then, one after the other, sends FCGI_ABORT_REQUEST for one of them, waits for its
FCGI_END_REQUEST, and begins another in its place. Prints the latencies, in milliseconds, as JSON.
"""

import json
import sys
import time

from .load import connect
from .wire import ABORT_REQUEST, END_REQUEST, fastcgi_request, record


def main() -> None:
    """Run as the module's docstring says."""
    address, running, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    request = fastcgi_request()
    abort = record(ABORT_REQUEST, 1, b"")
    connections = []
    for _ in range(running):
        connection = connect(address)
        connection.settimeout(10)
        connection.sendall(request)
        connections.append(connection)
    # The first abort is answered only after all that came before it has been read: it is no
    # measurement, but shows that all requests are running.
    latencies = []
    for number in range(count + 1):
        connection = connections[number % running]
        started = time.perf_counter()
        connection.sendall(abort)
        data = connection.recv(65536)
        while not has_ended(data):
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionResetError(f"closed in place of an answer: {data!r}")
            data += piece
        latencies.append((time.perf_counter() - started) * 1000)
        connection.sendall(request)
    print(json.dumps(latencies[1:]))


def has_ended(data: bytes) -> bool:
    """Whether the records end with FCGI_END_REQUEST, whole."""
    at = 0
    while len(data) >= at + 8:
        length = 8 + int.from_bytes(data[at + 4 : at + 6]) + data[at + 6]
        if data[at + 1] == END_REQUEST:
            return len(data) >= at + length
        at += length
    return False


if __name__ == "__main__":
    main()
