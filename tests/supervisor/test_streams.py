"""Many open event streams, and a server that stops."""

import trio
import trio.testing

from tests.server import raw
from tests.server.raw import RawFrontEnd
from tests.server.test_timeouts import MemoryListener
from trifcgi import Request, Timeouts
from trifcgi.server import DataPlane

STREAMS = 500
HEAD = b"Content-Type: text/event-stream\r\n\r\n"


async def test_five_hundred_are_told_and_ended_within_the_grace(autojump_clock: object) -> None:
    told: list[str] = []

    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD + b"data: first\n\n")
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            told.append(str(cancelled))
            raise

    grace = 10.0
    listener = MemoryListener()
    async with (
        DataPlane(app, timeouts=Timeouts(grace=grace)) as plane,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(plane.serve, [listener])
        front_ends = [RawFrontEnd(listener.connect()) for _ in range(STREAMS)]
        for front_end in front_ends:
            await front_end.send(raw.get())
        for front_end in front_ends:
            record = await front_end.receive()
            assert record is not None
            assert b"text/event-stream" in record.content
            assert b"data: first" in record.content
        began = trio.current_time()
        plane.drain()
        for front_end in front_ends:
            nursery.start_soon(ends_without_a_whole_response, front_end)
    assert trio.current_time() - began < grace + 3
    assert len(told) == STREAMS
    assert all("server stopping" in each for each in told)
    assert plane.cut_by_drain == STREAMS


async def ends_without_a_whole_response(front_end: RawFrontEnd) -> None:
    assert raw.END not in [record.kind for record in await front_end.rest()]
