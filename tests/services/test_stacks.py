"""Where coroutines, tasks, requests and threads are said to be."""

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Generator
from types import coroutine
from typing import Any

import trio
import trio.testing

import trifcgi
from tests.services.planes import GET, serving
from trifcgi import Request
from trifcgi.apps.threads import ThreadPool, threads_of
from trifcgi.observe.stacks import (
    TaskTree,
    await_stack,
    describe,
    format_frames,
    format_threads,
    format_tree,
    request_tree,
    task_tree,
    thread_stack,
    thread_stacks,
)
from trifcgi.server import DataPlane
from trifcgi.server.exchange import Exchange


def functions(frames: Any) -> list[str]:
    return [frame.function.rpartition(".")[2] for frame in frames]


@coroutine
def trap() -> Generator[None, None, None]:
    yield


async def inner() -> None:
    await trap()


async def outer() -> None:
    await inner()


def test_an_await_stack_goes_from_the_outermost_to_the_innermost_frame() -> None:
    suspended = outer()
    suspended.send(None)
    frames = await_stack(suspended)
    assert functions(frames) == ["outer", "inner", "trap"]
    assert [frame.text for frame in frames] == ["await inner()", "await trap()", "yield"]
    assert frames[0].file == __file__
    suspended.close()
    assert await_stack(suspended) == []


def test_an_await_stack_goes_through_asynchronous_generators() -> None:
    async def numbers() -> AsyncIterator[int]:
        await inner()
        yield 1

    async def count() -> None:
        async for _ in numbers():
            pass

    suspended = count()
    suspended.send(None)
    assert functions(await_stack(suspended)) == ["count", "numbers", "inner", "trap"]
    suspended.close()


def test_the_stack_of_a_coroutine_that_runs_has_the_calls_it_is_in() -> None:
    seen = []

    def look() -> None:
        seen.append(functions(await_stack(running)))

    async def middle() -> None:
        look()

    async def start() -> None:
        await middle()

    running = start()
    with contextlib.suppress(StopIteration):
        running.send(None)
    assert seen[0][:3] == ["start", "middle", "look"]


def test_a_coroutine_that_runs_in_another_thread_is_found_there() -> None:
    reached, release = threading.Event(), threading.Event()

    def block() -> None:
        reached.set()
        release.wait()

    async def handler() -> None:
        block()

    running = handler()

    def step() -> None:
        with contextlib.suppress(StopIteration):
            running.send(None)

    thread = threading.Thread(target=step)
    thread.start()
    reached.wait()
    try:
        assert functions(await_stack(running))[:2] == ["handler", "block"]
        assert "block" in functions(thread_stack(thread).frames)
    finally:
        release.set()
        thread.join()
    assert thread_stack(thread).frames == []


def test_a_runaway_recursion_is_cut_in_the_middle() -> None:
    async def deeper(left: int) -> None:
        await (deeper(left - 1) if left else trap())

    suspended = deeper(300)
    suspended.send(None)
    frames = await_stack(suspended)
    suspended.close()
    assert len(frames) == 101
    assert frames[50].function == "(202 frames left out)"
    assert functions(frames)[-1] == "trap"
    assert "    (202 frames left out)" in format_frames(frames, "    ").splitlines()


def test_all_threads_are_there_the_main_one_first() -> None:
    stacks = thread_stacks()
    assert stacks[0].ident == threading.main_thread().ident
    text = format_threads(stacks)
    assert text.startswith("thread MainThread\n  File ")
    assert "in test_all_threads_are_there_the_main_one_first" in text


async def sleeper() -> None:
    await trio.sleep_forever()


async def parent(task_status: trio.TaskStatus[trio.lowlevel.Task]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper, name="first")
        nursery.start_soon(sleeper, name="second")
        task_status.started(trio.lowlevel.current_task())


async def test_a_task_tree_has_nurseries_and_their_tasks_in_order(nursery: trio.Nursery) -> None:
    task = await nursery.start(parent)
    await trio.testing.wait_all_tasks_blocked()
    tree = task_tree(task)
    assert [child.name for child in tree.nurseries[0].tasks] == ["first", "second"]
    lines = format_tree(tree).splitlines()
    assert lines[0] == f"task {task.name}"
    assert "  nursery, tasks: 2" in lines
    assert "    task first" in lines
    nursery.cancel_scope.cancel()


async def test_a_long_tree_says_how_much_it_leaves_out(nursery: trio.Nursery) -> None:
    task = await nursery.start(parent)
    await trio.testing.wait_all_tasks_blocked()
    whole = format_tree(task_tree(task)).splitlines()
    short = format_tree(task_tree(task), most_lines=3).splitlines()
    assert short == [*whole[:3], f"({len(whole) - 3} more lines left out)"]
    nursery.cancel_scope.cancel()


def find(tree: TaskTree, matches: Callable[[TaskTree], bool]) -> TaskTree | None:
    if matches(tree):
        return tree
    for nursery in tree.nurseries:
        for task in nursery.tasks:
            if (found := find(task, matches)) is not None:
                return found
    return None


async def family(request: Request) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper, name="child")
        await sleeper()


async def test_a_request_tree_is_the_handler_and_its_own_tasks() -> None:
    async with serving(family) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.request, GET)
        nursery.start_soon(client.request, GET)
        await trio.testing.wait_all_tasks_blocked()
        first, second = plane.exchanges()
        for exchange in (first, second):
            tree = request_tree(exchange)
            assert tree is not None
            assert tree.request == exchange.number
            assert functions(tree.frames)[:2] == ["family", "sleeper"]
            assert [n.tasks[0].name for n in tree.nurseries] == ["child"]
        nursery.cancel_scope.cancel()


async def test_the_whole_tree_goes_on_into_the_handlers() -> None:
    async with serving(family) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.request, GET)
        await trio.testing.wait_all_tasks_blocked()
        (exchange,) = plane.exchanges()
        root = trio.lowlevel.current_root_task()
        assert root is not None
        tree = find(task_tree(root, plane.exchanges()), lambda t: t.request is not None)
        assert tree is not None
        assert tree.request == exchange.number
        names = functions(tree.frames)
        assert names[names.index("_drive") + 1 :][:2] == ["family", "sleeper"]
        assert describe(exchange) == f"GET /hello (request {exchange.number})"
        nursery.cancel_scope.cancel()


async def test_a_request_that_has_ended_has_no_tree() -> None:
    held: list[tuple[DataPlane, Exchange]] = []

    async def handler(request: Request) -> None:
        held.extend((plane, exchange) for exchange in plane.exchanges())
        assert plane.stepping is held[0][1]
        await request.stdout.send_all(b"Content-Type: text/plain\r\n\r\n")

    async with serving(handler) as (plane, client):
        await client.request(GET)
        assert request_tree(held[0][1]) is None
        assert plane.stepping is None


async def test_a_request_of_a_wsgi_app_has_its_thread() -> None:
    reached, release = threading.Event(), threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        reached.set()
        release.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"slow"]

    async with serving(trifcgi.wsgi(slow)) as (plane, client), trio.open_nursery() as nursery:
        nursery.start_soon(client.request, GET)
        await trio.to_thread.run_sync(reached.wait)
        try:
            (exchange,) = plane.exchanges()
            tree = request_tree(exchange, threads_of)
            assert tree is not None
            (stack,) = tree.threads
            assert "slow" in functions(stack.frames)
            assert "  thread trifcgi-1" in format_tree(tree).splitlines()
        finally:
            release.set()


async def test_an_abandoned_thread_is_not_taken_for_the_next_requests() -> None:
    reached, release = threading.Event(), threading.Event()

    def gate() -> None:
        reached.set()
        release.wait()

    async with ThreadPool(2).running() as crew:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, scope, reached)
                await crew.run_sync(gate)
        try:
            assert crew.abandoned == 1
            assert threads_of(trio.lowlevel.current_task()) == []
        finally:
            release.set()


async def _cancel_when(scope: trio.CancelScope, reached: threading.Event) -> None:
    await trio.to_thread.run_sync(reached.wait)
    scope.cancel()
