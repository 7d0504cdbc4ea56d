"""Who takes the next connection from a listener that several processes share."""

import array
import socket
import time
from collections.abc import Iterator

import pytest
import trio

from trifcgi.server.share import SLOT, Share


def shares(*connections: int | None) -> list[Share]:
    """Processes with so many connections; ``None``: one that does not accept."""
    counts = memoryview(array.array(SLOT, [0] * len(connections)))
    found = []
    for slot, number in enumerate(connections):
        share = Share(counts, slot)
        for _ in range(number or 0):
            share.taken()
        if number is not None:
            share.open()
        found.append(share)
    return found


@pytest.mark.parametrize(
    ("mine", "others", "above"),
    [
        (0, [0, 0], False),
        (1, [0, 5], True),
        (1, [1, 1], False),
        (7, [8, 9], False),
        (8, [7, 9], True),
        (9, [8], False),  # an eighth more
        (10, [8], True),
        (100, [90], False),
        (102, [90], True),
        (3, [None, None], False),
        (3, [None, 2], True),
    ],
)
def test_who_is_above_its_share(mine: int, others: list[int | None], above: bool) -> None:
    assert shares(mine, *others)[0].above() is above


def test_connections_that_end_count_no_more() -> None:
    one, two = shares(1, 0)
    one.left()
    assert not one.above()
    two.taken()
    assert two.above()


def test_a_process_that_stops_is_not_waited_for() -> None:
    one, two = shares(3, 0)
    two.close()
    two.left()  # its connections end later
    assert not one.above()


def test_a_process_that_is_gone_is_not_waited_for() -> None:
    counts = memoryview(array.array(SLOT, [0, 0]))
    one, two = Share(counts, 0), Share(counts, 1)
    one.open()
    one.taken()
    two.open()
    Share.clear(counts, 1)
    assert not one.above()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket with a connection that waits."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        yield listener


async def test_who_is_not_above_takes_it_at_once(listener: socket.socket) -> None:
    one, _ = shares(1, 1)
    assert await one.turn(listener)


async def test_it_is_left_to_who_has_fewer(listener: socket.socket) -> None:
    one, two = shares(1, 0)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def other() -> None:
            await trio.sleep(0.005)
            listener.accept()[0].close()
            two.taken()

        assert not await one.turn(listener)


async def test_it_is_taken_once_the_others_have_as_many(listener: socket.socket) -> None:
    one, two = shares(1, 0)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def other() -> None:
            await trio.sleep(0.005)
            two.taken()

        assert await one.turn(listener)


async def test_who_hangs_is_not_waited_for_again_and_again(listener: socket.socket) -> None:
    one, _ = shares(1, 0)
    began = time.monotonic()
    assert await one.turn(listener)
    assert time.monotonic() - began >= 0.05
    one.taken()
    assert one.above()
    with trio.fail_after(10):
        for _ in range(200):  # 10 s, if each waited
            assert await one.turn(listener)
