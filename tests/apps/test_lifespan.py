"""The lifespan protocol: every way in which startup, serving and shutdown can go."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trifcgi.apps.asgi import asgi
from trifcgi.apps.lifespan import run_lifespan
from trifcgi.errors import AppLoadError, ResponseError
from trifcgi.testing import open_client, params

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

COMPLETE = {"type": "lifespan.startup.complete"}
DOWN = {"type": "lifespan.shutdown.complete"}


class Recorder:
    """A well-behaved application that notes what happens to it, and can be changed."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            self.steps.append((await receive())["type"])
            await self.start(scope, send)
            self.steps.append((await receive())["type"])
            await self.stop(send)
            self.steps.append("returned")
        except trio.Cancelled:
            self.steps.append("cancelled")
            raise

    async def start(self, scope: dict[str, Any], send: Send) -> None:
        await send(COMPLETE)

    async def stop(self, send: Send) -> None:
        await send(DOWN)


WHOLE = ["lifespan.startup", "lifespan.shutdown", "returned"]


async def test_startup_comes_before_the_block_and_shutdown_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class App(Recorder):
        async def start(self, scope: dict[str, Any], send: Send) -> None:
            await trio.sleep(2)
            scope["state"]["ready"] = True
            await super().start(scope, send)

        async def stop(self, send: Send) -> None:
            await trio.sleep(2)
            await super().stop(send)

    app, state = App(), dict[str, Any]()
    async with run_lifespan(app, state):
        assert state == {"ready": True}
        assert app.steps == WHOLE[:1]
    assert app.steps == WHOLE


async def test_the_scope_is_a_lifespan_scope() -> None:
    scopes = []

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async with run_lifespan(app, {"a": 1}):
        pass
    assert scopes == [
        {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {"a": 1},
        }
    ]


async def refuses(scope: Any, receive: Receive, send: Send) -> None:
    raise ValueError("http only")


async def ignores(scope: Any, receive: Receive, send: Send) -> None:
    pass


@pytest.mark.parametrize("app", [refuses, ignores])
async def test_an_app_without_a_lifespan_is_served_all_the_same(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trifcgi")
    async with run_lifespan(app, {}):
        assert [record.levelname for record in caplog.records] == ["DEBUG"]


async def test_an_app_that_raises_in_its_startup_is_served_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise ZeroDivisionError("in startup")

    async with run_lifespan(app, {}):
        pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ZeroDivisionError: in startup" in caplog.text


async def test_a_failed_startup_stops_with_the_apps_own_words(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class App(Recorder):
        async def start(self, scope: dict[str, Any], send: Send) -> None:
            await send({"type": "lifespan.startup.failed", "message": "no database"})

    app = App()
    with pytest.raises(AppLoadError, match=r"startup failed: no database$") as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert caught.value.__cause__ is None
    assert app.steps == ["lifespan.startup", "cancelled"]


async def test_what_the_app_raised_after_a_failed_startup_is_the_cause() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback (most …\n"})
        raise ConnectionError("no database")

    with pytest.raises(AppLoadError, match=r"failed: ConnectionError: no database$") as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert isinstance(caught.value.__cause__, ConnectionError)


async def test_a_cancel_while_serving_still_shuts_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            await trio.sleep(5)
            await super().stop(send)

    app = App()
    with trio.move_on_after(1) as scope:
        async with run_lifespan(app, {}):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert app.steps == WHOLE


async def test_a_cancel_during_startup_cancels_the_app(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class App(Recorder):
        async def start(self, scope: dict[str, Any], send: Send) -> None:
            await trio.sleep_forever()

    app = App()
    with trio.move_on_after(1) as scope:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert scope.cancelled_caught
    assert app.steps == ["lifespan.startup", "cancelled"]


async def test_a_shutdown_that_hangs_is_cancelled(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            await trio.sleep_forever()

    app = App()
    begun = trio.current_time()
    async with run_lifespan(app, {}, shutdown_timeout=7):
        pass
    assert trio.current_time() - begun == pytest.approx(7)
    assert app.steps == [*WHOLE[:2], "cancelled"]
    assert "took more than 7 s" in caplog.text


async def test_an_app_that_lingers_after_its_shutdown_is_cancelled_soon(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    begun = trio.current_time()
    async with run_lifespan(app, {}, shutdown_timeout=100):
        pass
    assert trio.current_time() - begun < 5
    assert not caplog.records


async def test_a_receive_that_was_given_up_takes_no_message_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen = []

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        for _ in range(3):
            with trio.move_on_after(1):
                await receive()
        seen.append(await receive())

    async with run_lifespan(app, {}):
        await trio.sleep(10)
    assert seen == [{"type": "lifespan.shutdown"}]


async def test_the_blocks_own_error_comes_out_bare_after_the_shutdown() -> None:
    app = Recorder()
    with pytest.raises(KeyError, match="mine"):
        async with run_lifespan(app, {}):
            raise KeyError("mine")
    assert app.steps == WHOLE


async def test_a_crash_while_serving_is_logged_and_serving_goes_on(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await trio.sleep(1)
        raise ZeroDivisionError("background")

    async with run_lifespan(app, {}):
        await trio.sleep(2)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "while serving" in caplog.text
        assert "ZeroDivisionError: background" in caplog.text
    assert len(caplog.records) == 1


async def test_an_error_in_the_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            raise ZeroDivisionError("at the end")

    async with run_lifespan(App(), {}):
        pass
    assert "while shutting down" in caplog.text
    assert "ZeroDivisionError: at the end" in caplog.text


async def test_a_failed_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            await send({"type": "lifespan.shutdown.failed", "message": "disk full"})

    async with run_lifespan(App(), {}):
        pass
    assert "shutdown failed: disk full" in caplog.text


async def test_an_error_while_being_cancelled_is_logged(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError("in clean-up")

    async with run_lifespan(App(), {}):
        pass
    assert "raised when it was cancelled" in caplog.text


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([COMPLETE, COMPLETE], "over already"),
        ([COMPLETE, {"type": "lifespan.startup.failed"}], "over already"),
        ([DOWN], "out of order"),
        ([{"type": "http.response.start"}], "'http.response.start'"),
        ([{}], "type None"),
    ],
)
async def test_messages_out_of_order_raise_in_the_app(messages: list[Any], sentence: str) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages[:-1]:
            await send(message)
        with pytest.raises(ResponseError, match=sentence):
            await send(messages[-1])
        passed.append(sentence)

    passed: list[str] = []
    async with run_lifespan(app, {}):
        pass
    assert passed == [sentence]


async def test_nothing_is_left_behind() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with run_lifespan(Recorder(), {}):
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
    assert trio.lowlevel.current_statistics().tasks_living == before


# What is no Exception


class Panic(BaseException):
    """What a library in another language raises (pyo3's PanicException is one)."""


async def stray() -> BaseException:
    """A Cancelled that was kept, and that no scope waits for."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as error:
            kept = error
            raise
    return kept


async def raise_in_a_child(error: BaseException) -> None:
    async def child() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


NOT_EXCEPTIONS = [
    (SystemExit("missing FOO"), "SystemExit: missing FOO"),
    (SystemExit(3), "SystemExit: 3"),
    (SystemExit(), "SystemExit"),
    (Panic("at the disco"), "Panic: at the disco"),
    (asyncio.CancelledError(), "CancelledError"),
    (GeneratorExit(), "GeneratorExit"),
    (
        BaseExceptionGroup("two", [Panic(), ValueError()]),
        "BaseExceptionGroup: two (2 sub-exceptions)",
    ),
]
whatever_it_raises = pytest.mark.parametrize(
    ("error", "words"), NOT_EXCEPTIONS, ids=[words for _, words in NOT_EXCEPTIONS]
)


@whatever_it_raises
@pytest.mark.parametrize("asked", [True, False], ids=["asked", "at once"])
async def test_a_startup_that_ends_with_no_exception_has_failed(
    error: BaseException, words: str, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if asked:
            await receive()
        raise error

    with pytest.raises(AppLoadError) as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert str(caught.value) == f"the app's startup failed: {words}"
    assert type(caught.value.__cause__) is type(error)
    assert not caplog.records


async def test_a_startup_fails_with_what_came_in_a_task_of_it() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await raise_in_a_child(SystemExit(3))

    with pytest.raises(AppLoadError, match="failed: BaseExceptionGroup: ") as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert isinstance(caught.value.__cause__, BaseExceptionGroup)


async def test_a_startup_fails_with_a_cancelled_that_was_kept() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        raise await stray()

    with pytest.raises(AppLoadError, match="failed: Cancelled"):
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")


@whatever_it_raises
async def test_no_exception_after_a_failed_startup_is_the_cause_too(
    error: BaseException, words: str
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback (most …\n"})
        raise error

    with pytest.raises(AppLoadError) as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert str(caught.value) == f"the app's startup failed: {words}"
    assert type(caught.value.__cause__) is type(error)


@whatever_it_raises
@pytest.mark.parametrize("nested", [False, True], ids=["bare", "grouped"])
async def test_no_exception_while_serving_is_logged_and_serving_goes_on(
    error: BaseException, words: str, nested: bool, caplog: pytest.LogCaptureFixture
) -> None:
    leave, left = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            await leave.wait()
            left.set()
            if nested:
                await raise_in_a_child(error)
            raise error
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with open_client(app) as client:
        leave.set()
        await left.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "ended with an error while serving" in caplog.text
        assert words in caplog.text
        assert (await client.request(params("/"))).status == 204
    assert len(caplog.records) == 1


@whatever_it_raises
async def test_no_exception_in_the_shutdown_is_logged(
    error: BaseException, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            raise error

    async with run_lifespan(App(), {}):
        pass
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "while shutting down" in caplog.text
    assert words in caplog.text


async def test_no_exception_after_the_shutdown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class App(Recorder):
        async def stop(self, send: Send) -> None:
            await super().stop(send)
            raise SystemExit(4)

    async with run_lifespan(App(), {}):
        pass
    assert "SystemExit: 4" in caplog.text


@pytest.mark.parametrize("nested", [False, True], ids=["bare", "grouped"])
async def test_a_cancel_during_startup_stays_one_whatever_the_clean_up_raises(
    nested: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def leave() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        if not nested:
            await leave()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert scope.cancelled_caught
    assert "raised when it was cancelled" in caplog.text
    assert "SystemExit: 3" in caplog.text


async def test_a_cancelled_that_passes_in_a_group_is_never_kept(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        kept = await stray()
        await receive()
        await send(COMPLETE)
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        raise BaseExceptionGroup("both", [kept, SystemExit(3)])

    with trio.move_on_after(1) as scope:
        async with run_lifespan(app, {}, shutdown_timeout=math.inf):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "SystemExit: 3" in caplog.text
    assert "Cancelled" not in caplog.text


async def interrupts_startup(receive: Receive, send: Send) -> None:
    await receive()
    raise KeyboardInterrupt


async def interrupts_serving(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await trio.sleep(1)
    raise KeyboardInterrupt


async def interrupts_shutdown(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await receive()
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("interrupts", "serves"),
    [(interrupts_startup, False), (interrupts_serving, True), (interrupts_shutdown, True)],
)
async def test_a_keyboard_interrupt_passes_at_once(
    interrupts: Any,
    serves: bool,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await interrupts(receive, send)

    served = False
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with run_lifespan(app, {}):
            served = True
            await trio.sleep(2)
    assert caught.group_contains(KeyboardInterrupt)
    assert served is serves
    assert trio.current_time() <= 2
    assert not caplog.records


async def test_what_came_beside_a_keyboard_interrupt_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ZeroDivisionError("lost")])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with run_lifespan(app, {}):
            pytest.fail("the block must not run")
    assert caught.group_contains(KeyboardInterrupt)
    assert not caught.group_contains(ZeroDivisionError)
    assert "ZeroDivisionError: lost" in caplog.text


async def test_servers_that_share_a_handler_have_a_lifespan_each() -> None:
    apps = 0

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        nonlocal apps
        apps += 1
        scope["state"]["number"] = apps
        await receive()
        await send(COMPLETE)
        await receive()
        apps -= 1

    handler = asgi(app)
    async with handler.lifespan():
        async with handler.lifespan():
            assert apps == 2
        assert apps == 1
    assert apps == 0
