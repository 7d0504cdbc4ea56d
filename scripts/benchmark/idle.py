"""Connections that do nothing: ``python -m benchmark.idle ADDRESS COUNT``.

Each has had one request, as those have that a front end keeps. Prints a line when all of them are
there, and holds them until its standard input ends.
"""

import socket
import sys

from .apps import hello
from .load import connect
from .wire import fastcgi_request, read_fastcgi


def main() -> None:
    """Run as the module's docstring says."""
    request = fastcgi_request()
    held: list[socket.socket] = []
    for _ in range(int(sys.argv[2])):
        connection = connect(sys.argv[1])
        connection.settimeout(10)
        connection.sendall(request)
        data = b""
        while (answer := read_fastcgi(data)) is None:
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionResetError(f"closed after {len(held)} connections")
            data += piece
        if answer.body != hello.BODY:
            raise ValueError(f"not the expected answer: {data!r}")
        held.append(connection)
    print(len(held), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
