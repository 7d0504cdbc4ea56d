"""Every piece of Python in the documentation is a file that is imported and does its job.

Its ``test_…`` functions pass, its ``app`` answers a request, its ``main`` serves one.
"""

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

import trifcgi
from tests.docs.markdown import PAGES, Block
from tests.docs.workspace import Workspace
from trifcgi.apps.loader import as_handler, load_app
from trifcgi.testing import open_client, params

BLOCKS = [block for page in PAGES for block in page.code("python")]
_PATIENCE = 10  # seconds


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_python_does_its_job(block: Block, workspace: Workspace) -> None:
    assert block.file is not None, "say which file this is"
    path = workspace.write_block(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        # Another test may have had a module of that name.
        patch.delitem(sys.modules, path.stem, raising=False)
        module = importlib.import_module(path.stem)
        jobs = [check(module, block, workspace) for check in (_tests, _app, _main, _ask)]
    assert any(jobs), "nothing in it can be tried"


def _tests(module: ModuleType, block: Block, workspace: Workspace) -> bool:
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    for test in tests:
        clock = trio.testing.MockClock(autojump_threshold=0)
        arguments = [clock for name in inspect.signature(test).parameters]
        assert list(inspect.signature(test).parameters) in ([], ["autojump_clock"])
        if inspect.iscoroutinefunction(test):
            trio.run(test, *arguments, clock=clock if arguments else None)
        else:
            test()
    return bool(tests)


def _app(module: ModuleType, block: Block, workspace: Workspace) -> bool:
    if not hasattr(module, "app") or any(name.startswith("test_") for name in vars(module)):
        return False
    found = load_app(module.__name__, directory=Path(str(module.__file__)).parent)
    handler = as_handler(found.target, found.interface)

    async def ask() -> int:
        async with open_client(handler) as client:
            return (await client.request(params("/"))).status

    with_key = block.page.endswith("lighttpd.md")  # the authorizer, which refuses
    assert trio.run(ask) == (403 if with_key else 200)
    return True


def _main(module: ModuleType, block: Block, workspace: Workspace) -> bool:
    if not hasattr(module, "main"):
        return False

    async def connect() -> trio.abc.Stream:
        if "serve_unix" in block.text:
            return await trio.open_unix_socket(str(workspace.directory / "run/app.sock"))
        return await trio.open_tcp_stream("127.0.0.1", workspace.port("9000"))

    trio.run(_ask_once, module.main, connect)
    return True


async def _ask_once(
    main: Callable[[], Awaitable[None]], connect: Callable[[], Awaitable[trio.abc.Stream]]
) -> None:
    with trio.fail_after(_PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main)
            async with trifcgi.Client(await _retried(connect)) as client:
                response = await client.request(params("/"))
            nursery.cancel_scope.cancel()
    assert response.status == 200
    assert response.body.startswith(b"Hello")


async def _retried(connect: Callable[[], Awaitable[trio.abc.Stream]]) -> trio.abc.Stream:
    while True:
        try:
            return await connect()
        except OSError:
            await trio.sleep(0.01)


def test_the_graceful_stop_lets_a_request_finish(workspace: Workspace) -> None:
    (block,) = (block for block in BLOCKS if block.file == "graceful.py")
    workspace.write_block(block)
    module = importlib.import_module("graceful")
    stop, stopped = trio.Event(), trio.Event()

    async def serve() -> None:
        await module.serve_until(stop)
        stopped.set()

    async def ask() -> None:
        with trio.fail_after(_PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                port = workspace.port("9000")
                stream = await _retried(partial(trio.open_tcp_stream, "127.0.0.1", port))
                async with trifcgi.Client(stream) as client, client.open(params("/")) as exchange:
                    # Enough of a round trip for the request to have begun.
                    await client.get_values([])
                    stop.set()
                    assert (await exchange.response()).status == 200
                    assert await exchange.stdout.receive_some() == b"Hello!\n"
                    await exchange.wait_ended()
                await stopped.wait()

    trio.run(ask)


def _ask(module: ModuleType, block: Block, workspace: Workspace) -> bool:
    if not hasattr(module, "ask"):
        return False

    async def app(request: trifcgi.Request) -> None:
        assert trifcgi.cgi.Meaning(request.pairs).path == "/"
        await request.stdout.send_all(b"\r\n")

    async def run() -> Any:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trifcgi.serve_tcp, app, 0)
            status = await module.ask(listeners[0].socket.getsockname()[1])
            nursery.cancel_scope.cancel()
        return status

    assert trio.run(run) == 200
    return True
