"""A data plane in memory, and a client that is connected to it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trifcgi
from trifcgi.server import DataPlane
from trifcgi.testing import MemoryServer, params

GET = params("/hello")


@asynccontextmanager
async def serving(
    handler: trifcgi.Handler,
) -> AsyncGenerator[tuple[DataPlane, trifcgi.Client]]:
    """Serve ``handler``; give its plane too, which is what this package's tests look at."""
    async with MemoryServer(handler) as server, server.client() as client:
        yield server.plane, client
