"""A native handler that never ends by itself: what aborts are measured with."""

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import trifcgi


async def handler(request: "trifcgi.Request") -> None:
    """Wait until it is cancelled."""
    await trio.sleep_forever()
