"""The ASGI adapter over a request in memory: what an application is promised."""

import contextlib
import gc
import inspect
import logging
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest
import trio
import trio.testing

from tests.apps.memory_request import MemoryRequest, params
from trifcgi.apps.asgi import ClientDisconnected, asgi
from trifcgi.errors import ResponseError
from trifcgi.observe.stacks import await_stack
from trifcgi.protocol.constants import Role

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

START = {"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]}
HELLO = {"type": "http.response.body", "body": b"Hello"}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def start(status: Any = 200, *headers: Any, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(HELLO)


async def run(app: Any, request: MemoryRequest | None = None) -> MemoryRequest:
    request = MemoryRequest() if request is None else request
    await request.run(asgi(app))
    return request


async def send_messages(*messages: Any, request: MemoryRequest | None = None) -> MemoryRequest:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return await run(app, request)


async def received(request: MemoryRequest, count: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.extend([await receive() for _ in range(count)])
        await hello(scope, receive, send)

    await run(app, request)
    return messages


# The handler object


async def test_hello_takes_no_checkpoint() -> None:
    request = MemoryRequest()
    with trio.testing.assert_no_checkpoints():
        await asgi(hello)(request)
    assert request.response.body == b"Hello"
    assert request.response.status == 200
    assert request.response.header("x-a") == "1"


async def test_reading_a_body_that_is_there_takes_no_checkpoint() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        await send(START)
        await send(body(message["body"]))

    request = MemoryRequest(params("POST"), body=b"data")
    with trio.testing.assert_no_checkpoints():
        await asgi(echo)(request)
    assert request.response.body == b"data"


def test_it_serves_responders_only() -> None:
    assert set(asgi(hello).roles) == {Role.RESPONDER}


def test_what_cannot_be_called_is_no_app() -> None:
    with pytest.raises(TypeError, match="callable"):
        asgi("hello:app")  # type: ignore[arg-type]


def test_a_bad_mount_is_told_when_the_handler_is_made() -> None:
    with pytest.raises(ValueError, match="mount"):
        asgi(hello, mount="app")


# The scope


async def scope_of(request: MemoryRequest, **options: Any) -> Scope:
    seen: Scope = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await hello(scope, receive, send)

    await request.run(asgi(app, **options))
    return seen


async def test_the_scope_says_what_the_params_say() -> None:
    pairs = params("POST", "/a%20b?x=%20y", {"SCRIPT_NAME": "/a b", "HTTP_ACCEPT": "text/html"})
    scope = await scope_of(MemoryRequest(pairs))
    headers = dict(scope.pop("headers"))
    assert headers == {b"host": b"example.org", b"accept": b"text/html"}
    assert list(scope.pop("extensions")) == ["trifcgi.stopping"]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=%20y",
        "root_path": "",
        "client": ("192.0.2.1", 40000),
        "server": ("example.org", 80),
    }


async def test_the_mount_cuts_the_path() -> None:
    scope = await scope_of(MemoryRequest(params("GET", "/app/page")), mount="/app")
    assert (scope["root_path"], scope["path"]) == ("/app", "/app/page")


async def test_requests_get_copies_of_the_state_that_the_lifespan_left() -> None:
    states = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = "the pool"
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return await send({"type": "lifespan.shutdown.complete"})
        states.append(scope["state"])
        scope["state"]["mine"] = len(states)
        return await hello(scope, receive, send)

    handler = asgi(app)
    async with handler.lifespan():
        await MemoryRequest().run(handler)
        await MemoryRequest().run(handler)
    assert states == [{"pool": "the pool", "mine": 1}, {"pool": "the pool", "mine": 2}]


async def test_without_a_lifespan_there_is_no_state() -> None:
    assert "state" not in await scope_of(MemoryRequest())


async def test_params_that_make_no_request_are_answered_400(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = MemoryRequest([(b"SCRIPT_NAME", b"/")])
    await run(hello, request)
    assert request.response.status == 400
    assert "REQUEST_METHOD" in caplog.text


# What receive gives


async def test_no_body_is_one_empty_final_message() -> None:
    assert await received(MemoryRequest(), 1) == [
        {"type": "http.request", "body": b"", "more_body": False}
    ]


async def test_chunks_come_as_they_came_and_the_last_one_says_so() -> None:
    chunks = [b"a" * 70_000, b"b"]
    messages = await received(MemoryRequest(params("POST"), body=chunks), 2)
    assert [message["body"] for message in messages] == chunks
    assert [message["more_body"] for message in messages] == [True, False]


async def test_an_end_that_comes_late_is_an_empty_final_message(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    request = MemoryRequest(params("POST"), body=b"whole", ended=False)

    async def end_later() -> None:
        await trio.sleep(1)
        request.stdin.end()

    nursery.start_soon(end_later)
    assert await received(request, 2) == [
        {"type": "http.request", "body": b"whole", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ]


async def test_a_cut_body_is_a_disconnect_and_never_an_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    messages = []
    request = MemoryRequest(params("POST"), body=b"half", ended=False)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        request.abort()
        messages.append(await receive())
        messages.append(await receive())

    await run(app, request)
    assert [message["type"] for message in messages] == [
        "http.request",
        "http.disconnect",
        "http.disconnect",
    ]
    assert messages[0]["more_body"] is True
    assert request.stdout.writes == []


@pytest.mark.parametrize("whole_body", [True, False])
async def test_a_waiting_receive_is_told_of_an_abort_and_the_next_checkpoint_cancelled(
    whole_body: bool, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    steps = []
    request = MemoryRequest(params("POST"), ended=whole_body)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        if whole_body:
            message = await receive()
        steps.append(message["type"])
        with pytest.raises(trio.Cancelled):
            await trio.lowlevel.checkpoint()
        steps.append("cancelled")
        await trio.lowlevel.checkpoint()

    async def abort_later() -> None:
        await trio.sleep(1)
        request.abort()

    nursery.start_soon(abort_later)
    await run(app, request)
    assert steps == ["http.disconnect", "cancelled"]
    assert request.cancel_scope.cancelled_caught


async def test_receive_gives_what_is_there_inside_a_cancelled_scope() -> None:
    seen = []
    request = MemoryRequest(params("POST"), body=b"x")

    async def ask(receive: Receive) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            seen.append((await receive())["type"])
        if scope.cancelled_caught:
            seen.append("nothing")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await ask(receive)
        await ask(receive)
        request.abort(cancel=False)
        await ask(receive)

    await run(app, request)
    assert seen == ["http.request", "nothing", "http.disconnect"]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    request = MemoryRequest(params("POST"), ended=False)
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(1):
            await receive()
        request.stdin.feed(b"late")
        request.stdin.end()
        seen.append(await receive())
        await hello(scope, receive, send)

    await run(app, request)
    assert seen == [{"type": "http.request", "body": b"late", "more_body": False}]


@pytest.mark.parametrize("body_ended", [True, False])
async def test_a_waiting_receive_is_let_go_when_the_response_is_complete(
    body_ended: bool, autojump_clock: trio.testing.MockClock
) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            seen.append(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.sleep(1)
            await send(START)
            await send(body(b"Hel", more=True))
            await trio.sleep(1)
            assert not seen
            await send(body(b"lo"))

    with trio.fail_after(60):
        request = await run(app, MemoryRequest(params("POST"), ended=body_ended))
    assert seen == [{"type": "http.disconnect"}]
    assert request.response.body == b"Hello"


async def test_after_the_response_receive_says_disconnect_at_once() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        with trio.testing.assert_no_checkpoints():
            seen.append(await receive())

    await run(app)
    assert seen == [{"type": "http.disconnect"}]


# What send takes


async def test_the_head_waits_for_the_first_body_bytes() -> None:
    request = MemoryRequest()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await trio.testing.wait_all_tasks_blocked()
        assert request.stdout.writes == []
        await send(body(b"", more=True))
        assert len(request.stdout.writes) == 1
        await send(body(b"Hello"))

    await run(app, request)
    assert request.response.body == b"Hello"


async def test_a_streamed_body_leaves_chunk_by_chunk() -> None:
    request = await send_messages(START, body(b"a", more=True), body(b"b", more=True), body(b"c"))
    assert request.stdout.writes[1:] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_other_buffers_are_copied(kind: Callable[[bytes], Any]) -> None:
    buffer = kind(b"Hello")
    request = await send_messages(START, body(buffer))
    assert request.response.body == b"Hello"


async def test_headers_may_be_any_iterable_of_pairs() -> None:
    pairs = ([name, b"1"] for name in (b"x-one", b"x-two"))
    request = await send_messages({**START, "headers": pairs}, HELLO)
    assert request.response.header("x-two") == "1"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_a_response_without_a_body_sends_none(method: str, status: int) -> None:
    request = MemoryRequest(params(method))
    length = (b"content-length", b"5")
    await send_messages(start(status, length), body(b"Hel", more=True), body(), request=request)
    assert request.response.body == b""
    assert request.response.status == status


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([HELLO], "before 'http.response.start'"),
        ([START, START], "second time"),
        ([START, HELLO, HELLO], "after the response was complete"),
        ([START, HELLO, START], "second time"),
        ([START, {"type": "http.response.push"}], "'http.response.push'"),
        ([{"type": "http.response.pathsend", "path": "/"}], "'http.response.pathsend'"),
        ([{}], "a dict with a 'type'"),
        (["http.response.start"], "a dict with a 'type', not str"),
        ([{"type": "http.response.start"}], "no 'status'"),
        ([start("200 OK")], "a whole number"),
        ([start([])], "an int, not list"),
        ([start(200.0)], "an int, not float"),
        ([start(99)], "200 to 999"),
        ([start(200, ("x-a", b"1"))], "bytes, not str"),
        ([start(200, (b"x-a", "1"))], "bytes, not str"),
        ([start(200, (b"content-length", 5))], "bytes, not int"),
        ([start(200, b"x-a: 1")], "a pair of bytes, not bytes"),
        ([start(200, (b"x-a", b"1", b"2"))], "a pair of bytes, not tuple"),
        ([start(200, (b"x-a", b"1\r\nx-b: 2"))], "CR, LF or NUL"),
        ([start(200, (b"x a", b"1"))], "header name"),
        ([{**START, "headers": None}], "pairs of bytes, not NoneType"),
        ([{**START, "headers": {b"x-a": b"1"}}], "a pair of bytes, not bytes"),
        ([start(trailers=True)], "trailers"),
        ([START, body("Hello")], "bytes, not str"),
        ([START, body(None)], "bytes, not NoneType"),
        ([start(200, (b"content-length", b"five"))], "not a number"),
        ([start(200, (b"content-length", b"5"), (b"content-length", b"6"))], "differ"),
        ([start(200, (b"Content-Length", b"4")), HELLO], "longer than its Content-Length"),
        ([start(200, (b"content-length", b"6")), HELLO], "1 bytes short"),
        ([start(200, (b"content-length", b"0")), body(b"", more=True), HELLO], "longer"),
        ([], "without sending a response"),
        ([START], "before it sent a response body"),
        ([START, body(b"Hel", more=True)], "before its response was complete"),
    ],
)
async def test_what_is_out_of_order_or_malformed_is_an_error(
    messages: list[Any], sentence: str
) -> None:
    with pytest.raises(ResponseError, match=sentence):
        await send_messages(*messages)


@pytest.mark.parametrize("length", [b"3", b"9"])
async def test_a_wrong_length_is_found_before_anything_is_sent(length: bytes) -> None:
    request = MemoryRequest()
    with pytest.raises(ResponseError):
        await send_messages(start(200, (b"content-length", length)), HELLO, request=request)
    assert not request.stdout.begun


async def test_bytes_beyond_the_content_length_are_never_sent() -> None:
    request = MemoryRequest()
    length = (b"content-length", b"4")
    with pytest.raises(ResponseError, match="by 2 bytes"):
        await send_messages(start(200, length), body(b"abc", True), body(b"def"), request=request)
    assert request.stdout.writes[1:] == [b"abc"]


async def test_an_app_that_swallows_the_error_still_has_no_complete_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"9")))
        with pytest.raises(ResponseError):
            await send(HELLO)

    with pytest.raises(ResponseError, match="before it sent a response body"):
        await run(app)


async def test_the_apps_own_error_comes_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await run(app)


# Gone


async def with_send(check: Callable[[Send], Awaitable[None]]) -> MemoryRequest:
    """Run ``check`` with a ``send``, and then whatever of the response it has left out."""
    request = MemoryRequest()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await check(send)
        if not request.stdout.begun:
            await hello(scope, receive, send)

    return await run(app, request)


async def test_nothing_is_sent_before_send_is_awaited() -> None:
    async def check(send: Send) -> None:
        sending = send(body(b"out of order"))
        assert inspect.isawaitable(sending)
        with pytest.warns(RuntimeWarning, match=r"\bsend\b.* was never awaited$"):
            send({"type": "nonsense"})
        with pytest.raises(ResponseError, match=r"before 'http\.response\.start'"):
            await sending

    assert (await with_send(check)).response.body == b"Hello"


async def test_trio_says_what_is_wrong_with_a_send_that_was_called() -> None:
    async def check(send: Send) -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(TypeError, match=r"nursery\.start_soon\(send, \.\.\.\)"):
                nursery.start_soon(send(START))  # type: ignore[arg-type]

    assert (await with_send(check)).response.body == b"Hello"


async def test_a_send_is_awaited_once() -> None:
    async def check(send: Send) -> None:
        sending = send(START)
        await sending
        with pytest.raises(RuntimeError, match=r"cannot reuse .*\bawaited\b"):
            await sending
        await send(HELLO)

    assert (await with_send(check)).response.body == b"Hello"


async def test_send_may_be_a_task_of_its_own() -> None:
    async def check(send: Send) -> None:
        for message in (START, HELLO):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, message)

    assert (await with_send(check)).response.body == b"Hello"


async def test_a_task_that_sends_gets_the_error() -> None:
    async def check(send: Send) -> None:
        with pytest.RaisesGroup(ResponseError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, HELLO)

    await with_send(check)


async def test_a_send_can_be_stepped_as_a_coroutine_is() -> None:
    async def check(send: Send) -> None:
        sending: Any = send(START)
        assert isinstance(sending, Coroutine)
        with pytest.raises(StopIteration):
            sending.send(None)
        left: Any = send(HELLO)
        left.close()
        with pytest.raises(RuntimeError):
            left.send(None)
        refused: Any = send(HELLO)
        with pytest.raises(KeyError):
            refused.throw(KeyError("thrown"))
        await send(HELLO)

    assert (await with_send(check)).response.body == b"Hello"


async def test_a_send_that_waits_can_be_stepped_as_a_coroutine_is() -> None:
    request = MemoryRequest()
    request.stdout.block()

    @types.coroutine
    def step(sending: Any) -> Generator[Any, Any, None]:
        message = sending.send(None)
        with contextlib.suppress(StopIteration):
            while True:
                message = sending.send((yield message))

    async def stepped(sending: Awaitable[None]) -> None:
        await step(sending)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stepped, send(body(b"one", True)))
            await trio.testing.wait_all_tasks_blocked()
            request.stdout.unblock()
        await send(HELLO)

    await run(app, request)
    assert request.response.body == b"oneHello"


async def test_a_send_that_waits_is_cancelled_like_any_wait() -> None:
    request = MemoryRequest()
    request.stdout.block()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        with trio.move_on_after(0) as scope_:
            await send(body(b"lost", True))
        assert scope_.cancelled_caught
        request.stdout.unblock()
        await send(HELLO)

    await run(app, request)
    assert request.response.body == b"Hello"


async def test_where_a_send_waits_can_be_seen() -> None:
    request = MemoryRequest()
    request.stdout.block()
    stacks: list[list[str]] = []

    async def look(task: trio.lowlevel.Task) -> None:
        await trio.testing.wait_all_tasks_blocked()
        stacks.append([frame.function for frame in await_stack(task.coro)])
        stacks.append([frame.f_code.co_qualname for frame, _ in task.iter_await_frames()])
        request.stdout.unblock()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look, trio.lowlevel.current_task())
            await send(START)
            await send(HELLO)

    await run(app, request)
    shown, by_trio = stacks
    assert shown[-4:] == by_trio[-4:]
    assert "MemoryOutput.send_all" in shown
    assert shown.index("finish") < shown.index("MemoryOutput.send_all")


async def test_an_app_that_keeps_send_in_its_scope_makes_no_garbage() -> None:
    class Watched:
        pass

    watched: weakref.WeakSet[Watched] = weakref.WeakSet()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["mine"] = Watched(), receive, send
        watched.add(scope["mine"][0])
        await hello(scope, receive, send)

    gc.disable()
    try:
        await run(app)
        assert not watched
    finally:
        gc.enable()


async def test_send_after_an_abort_raises_an_os_error() -> None:
    request = MemoryRequest()
    raised = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        request.abort(cancel=False)
        for message in (HELLO, START, HELLO):
            try:
                await send(message)
            except OSError as error:
                raised.append(type(error))

    await run(app, request)
    assert raised == [ClientDisconnected] * 3
    assert request.stdout.writes == []


async def test_a_blocked_send_raises_when_the_client_goes(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    request = MemoryRequest()
    request.stdout.block()
    raised = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            await send(HELLO)
        except ClientDisconnected:
            raised.append(trio.current_time())
            raise

    async def abort_later() -> None:
        await trio.sleep(3)
        request.abort(cancel=False)

    begun = trio.current_time()
    nursery.start_soon(abort_later)
    await run(app, request)
    assert raised == [begun + 3]


async def test_letting_the_disconnect_pass_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    request = MemoryRequest()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request.abort(cancel=False)
        await send(START)

    await run(app, request)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "client had gone" in caplog.text


async def test_an_error_before_the_app_knew_of_the_abort_comes_out() -> None:
    request = MemoryRequest()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request.abort(cancel=False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(app, request)


async def test_returning_without_a_response_is_right_when_the_client_has_gone() -> None:
    request = MemoryRequest()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request.abort(cancel=False)

    await run(app, request)
    assert request.stdout.writes == []


async def test_a_cancel_passes_through_the_app() -> None:
    request = MemoryRequest()
    cleaned = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request.cancel_scope.cancel()
            await trio.sleep_forever()
        finally:
            cleaned.append(True)

    await run(app, request)
    assert cleaned == [True]
    assert request.cancel_scope.cancelled_caught
