"""A program whose author annotates with trio-typing: it type-checks, imports and runs.

``scripts/test`` does all three in an environment that has trio-typing, whose stubs hide trio's
own types from type checkers; so it is no part of the other tests' environment.
"""

import sys
from collections.abc import Sequence

import trio
import trio_typing

import trifcgi


async def app(request: trifcgi.Request) -> None:
    """Say hello."""
    await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\nhello\n")


async def serve(
    *,
    task_status: trio_typing.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on any free port; the listeners are the task status value."""
    await trifcgi.serve_tcp(app, 0, host="127.0.0.1", task_status=task_status)


async def start(nursery: trio_typing.Nursery) -> int:
    """Start the server as a part of a bigger program, and give its port."""
    listeners: Sequence[trio.SocketListener] = await nursery.start(serve)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def main() -> bytes:
    """Ask the server for a page."""
    async with trio.open_nursery() as nursery:
        port = await start(nursery)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with trifcgi.Client(stream) as client:
            response = await client.request({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/"})
        nursery.cancel_scope.cancel()
    return response.body


if __name__ == "__main__":
    sys.exit(trio.run(main) != b"hello\n")
