"""What is measured: ``python -m tests.speed.subject KIND SOCKET LINE COUNTER ARGUMENT``.

KIND is ``bare`` or one of :data:`APPS`; LINE the descriptor of a socket on which the load holds
the whole process between two rounds; COUNTER and its ARGUMENT one of
:data:`tests.speed.counters.COUNTERS`.
"""

import select
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIEnvironment

import trio

import trifcgi
from tests.speed.counters import COUNTERS, Command
from tests.speed.load import MIXED
from trifcgi import protocol
from trifcgi.observe.access_log import AccessLog
from trifcgi.observe.instrument import Instrument
from trifcgi.observe.log_file import LogFile

LOGGED: Final = "logged"
"""The kind with an access log."""

HEAD: Final = b"Content-Type: text/plain\r\nContent-Length: 13\r\n\r\n"
BODY: Final = b"Hello, world!"


# The same small answer from each.


async def handler(request: trifcgi.Request) -> None:
    await request.stdout.send_all(HEAD + BODY)


async def susp(request: trifcgi.Request) -> None:
    """Suspends once, as an app that asks somebody else does."""
    await trio.lowlevel.checkpoint()
    await request.stdout.send_all(HEAD + BODY)


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        raise NotImplementedError
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [BODY]


class Line:
    """The load's end of the line, as the server obeys it."""

    def __init__(self, descriptor: int, commands: dict[bytes, Command]) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.commands = commands

    def ready(self) -> None:
        """Say that connections are taken."""
        self.socket.sendall(b"r")

    def hold(self) -> bool:
        """Stand still until the load lets go; ``False`` once it has gone."""
        command = self.socket.recv(1)
        while command and command != b"g":
            if command != b"h":
                answer = self.commands[command]()
                self.socket.sendall(len(answer).to_bytes(4) + answer)
            command = self.socket.recv(1)
        return bool(command)


# Any: whichever kind of handler
async def serve(app: Any, path: str, line: Line, instruments: Iterable[Instrument]) -> None:
    """trifcgi as a program embeds it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trifcgi.serve_unix, app, path, instruments=instruments))
        line.ready()
        await trio.lowlevel.wait_readable(line.socket)
        while line.hold():
            await trio.lowlevel.wait_readable(line.socket)
        nursery.cancel_scope.cancel()


def bare(path: str, line: Line) -> None:
    """A plain loop around the same codec, which makes events and all params of each request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    epoll.register(line.socket, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, protocol.Connection]] = {}
    line.ready()
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                connection = listener.accept()[0]
                epoll.register(connection, select.EPOLLIN)
                codec = protocol.Connection(protocol.Side.APPLICATION)
                connections[connection.fileno()] = connection, codec
            elif fd == line.socket.fileno():
                if not line.hold():
                    return
            else:
                _answer(*connections[fd])


def _answer(connection: socket.socket, codec: protocol.Connection) -> None:
    for event in codec.receive_data(connection.recv(65536)):
        if isinstance(event, protocol.ParamsReceived):
            assert dict(event.pairs)[b"REQUEST_METHOD"] == b"GET"
            codec.send_stdout(event.request_id, HEAD + BODY)
            codec.end_request(event.request_id)
    chunks = codec.data_to_send()
    if chunks:
        connection.send(b"".join(chunks))


APPS: Final[dict[str, Callable[[], Any]]] = {  # Any: whichever kind of handler
    "handler": lambda: handler,
    "susp": lambda: susp,
    "asgi": lambda: trifcgi.asgi(asgi),
    "wsgi": lambda: trifcgi.wsgi(wsgi),
    MIXED: lambda: trifcgi.asgi(asgi),
    LOGGED: lambda: handler,
}


def main() -> None:
    """Serve until the load has gone."""
    kind, path, descriptor, counter, argument = sys.argv[1:]
    line = Line(int(descriptor), COUNTERS[counter](argument))
    if kind == "bare":
        bare(path, line)
        return
    # Without what flushes the log by the clock: each time as often, with 64 KiB of lines.
    instruments = [AccessLog(LogFile(path + ".log"))] if kind == LOGGED else []
    trio.run(serve, APPS[kind](), path, line, instruments)


if __name__ == "__main__":
    main()
