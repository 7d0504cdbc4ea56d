"""A native handler that never ends by itself: what aborts are measured with."""

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import trifcgi


async def handler(request: "trifcgi.Request") -> None:
    """Say that it runs, and wait until it is cancelled."""
    await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\nrunning")
    await trio.sleep_forever()
