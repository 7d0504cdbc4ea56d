"""The application server's side in plain bytes, one step at a time."""

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
import trio.testing

from tests.server import raw
from tests.server.raw import RawFrontEnd, record
from trifcgi import Client


def end(request_id: int = 1, app_status: int = 0, protocol_status: int = 0) -> bytes:
    return record(raw.END, request_id, struct.pack("!LB3x", app_status, protocol_status))


def stdout(request_id: int = 1, content: bytes = b"") -> bytes:
    return record(raw.STDOUT, request_id, content)


def stderr(request_id: int = 1, content: bytes = b"") -> bytes:
    return record(raw.STDERR, request_id, content)


def answer(request_id: int = 1, content: bytes = b"\r\n") -> bytes:
    """A whole answer."""
    return stdout(request_id, content) + stdout(request_id) + end(request_id)


class Application(RawFrontEnd):
    """Reads what the client sends; sends whatever the test wants."""

    async def receive_request(self) -> list[raw.Record]:
        """Records up to the end of stdin."""
        records = []
        while True:
            received = await self.receive()
            assert received is not None, "the client closed"
            records.append(received)
            if (received.kind, received.content) == (raw.STDIN, b""):
                return records

    async def close(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def connected(
    *, window: int = 256 * 1024, abort_timeout: float = 2.0
) -> AsyncGenerator[tuple[Client, Application]]:
    """A client and the bare other end of its stream."""
    near, far = trio.testing.memory_stream_pair()
    async with Client(near, window=window, abort_timeout=abort_timeout) as client:
        yield client, Application(far)
        await trio.testing.wait_all_tasks_blocked()
