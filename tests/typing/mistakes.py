"""Mistakes that a type checker has to find.

Each is marked with the error that it has to be; a mark that nothing needs is an error itself.
"""

import trifcgi
from trifcgi import Client, Limits, Request, Timeouts


async def returns_text(request: Request) -> str:
    """A handler must return None or an int."""
    return "body"


def not_async(request: Request) -> None:
    """A handler must be async."""


async def two_arguments(request: Request, more: int) -> None:
    """A handler takes one argument."""


async def mistakes(client: Client, request: Request) -> None:
    """One a line."""
    await trifcgi.serve_tcp(returns_text, 9000)  # type: ignore[arg-type]
    await trifcgi.serve_tcp(not_async, 9000)  # type: ignore[arg-type]
    await trifcgi.serve_tcp(two_arguments, 9000)  # type: ignore[arg-type]
    await trifcgi.serve_tcp(trifcgi.asgi(None), 9000)  # type: ignore[arg-type]
    await trifcgi.serve_unix(9000, "/run/app.sock")  # type: ignore[arg-type]
    await client.request({"A": 1})  # type: ignore[arg-type]
    await client.request({}, "text")  # type: ignore[arg-type]
    await request.stdout.send_all("text")  # type: ignore[arg-type]
    request.params["A"] = "b"  # type: ignore[index]
    Limits(1)  # type: ignore[call-arg]
    Timeouts(request_timeout="1")  # type: ignore[arg-type]
    trifcgi.serve_smtp()  # type: ignore[attr-defined]
