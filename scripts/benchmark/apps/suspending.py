"""ASGI apps that wait once, for nothing, in the way of the event loop that runs them."""

from typing import Any

from . import hello


async def on_trio(scope: dict[str, Any], receive: hello.Receive, send: hello.Send) -> None:
    """Wait with trio."""
    import trio  # noqa: PLC0415 (rivals run without it)

    if scope["type"] == "http":
        await trio.sleep(0)  # noqa: ASYNC115 (as apps do it)
    await hello.asgi(scope, receive, send)


async def on_asyncio(scope: dict[str, Any], receive: hello.Receive, send: hello.Send) -> None:
    """Wait with asyncio."""
    import asyncio  # noqa: PLC0415 (not needed on trio)

    if scope["type"] == "http":
        await asyncio.sleep(0)
    await hello.asgi(scope, receive, send)
