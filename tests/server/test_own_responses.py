"""Responses that the server makes itself: each row of the contract's table."""

import logging
import re

import pytest
import trio

from tests.server import raw
from tests.server.conftest import Serve
from tests.server.handlers import HEAD, Recorder, hello, read_body, sleep, sleep_begun
from trifcgi import (
    ConnectionLost,
    Limits,
    ProtocolError,
    ProtocolStatus,
    Request,
    Role,
    Timeouts,
)
from trifcgi.client import Exchange
from trifcgi.testing import params

CUT = (ConnectionLost, ProtocolError)
"""How a client learns that a response is not whole: the connection ends, over sockets with bytes
that no front end can take for a record."""


async def read_on(exchange: Exchange) -> None:
    """Read the output to its end."""
    while await exchange.stdout.receive_some():
        pass


async def fail(request: Request) -> None:
    raise RuntimeError("the reason")


async def test_an_app_that_raises_first_is_a_500_with_its_traceback_in_both_logs(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(fail) as server, server.client() as client:
        response = await client.request(params())
    assert response.status == 500
    assert response.app_status == 1
    assert response.protocol_status == ProtocolStatus.REQUEST_COMPLETE
    assert b"Traceback" in response.stderr
    assert b"RuntimeError: the reason" in response.stderr
    assert b"the reason" not in response.body
    [logged] = [line for line in caplog.records if line.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert str(logged.exc_info[1]) == "the reason"


async def test_the_traceback_comes_after_the_head(serve: Serve) -> None:
    async with serve(fail) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        answer = await front_end.answer()
    kinds = [record.kind for record in answer.records]
    assert kinds.index(raw.STDOUT) < kinds.index(raw.STDERR)
    assert raw.STDOUT not in kinds[1 : kinds.index(raw.STDERR)] or answer.status == 500
    assert answer.records[0].content.count(b"\r\n\r\n") == 1


async def test_the_connection_goes_on_after_a_500(serve: Serve) -> None:
    outcomes = iter([fail, hello])

    async def app(request: Request) -> None:
        await next(outcomes)(request)

    async with serve(app) as server, server.client() as client:
        assert (await client.request(params())).status == 500
        assert (await client.request(params())).body == b"hello"


async def test_an_app_that_raises_after_it_began_cuts_the_response(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    begun = trio.Event()

    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD + b"half")
        await begun.wait()
        raise RuntimeError("too late")

    async with serve(app) as server, server.client() as client:
        async with client.open(params()) as exchange:
            assert (await exchange.response()).status == 200
            begun.set()
            with pytest.raises(CUT):
                await read_on(exchange)
        assert not client.usable
    assert any("too late" in str(line.exc_info) for line in caplog.records if line.exc_info)


@pytest.mark.parametrize(
    ("software", "spoiled"), [("nginx/1.22.1", True), ("Apache/2.4.71", False), ("", False)]
)
async def test_a_cut_response_has_no_end_request(
    serve: Serve, software: str, spoiled: bool
) -> None:
    """nginx takes a mere close for the end; what it cannot read makes it give up."""

    async def app(request: Request) -> None:
        await request.stdout.send_all(HEAD + b"half")
        raise RuntimeError("too late")

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get(SERVER_SOFTWARE=software))
        records = await front_end.rest()
    assert front_end.spoiled is spoiled
    assert raw.END not in [record.kind for record in records]
    assert (raw.STDOUT, b"") not in [(record.kind, record.content) for record in records]


async def test_a_response_of_its_declared_length_is_whole_though_its_app_raised(
    serve: Serve,
) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(b"Content-Length: 4\r\n\r\nfour")
        raise RuntimeError("afterwards")

    async with serve(app) as server, server.client() as client:
        response = await client.request(params())
        assert response.body == b"four"
        assert response.app_status == 1
        assert b"afterwards" in response.stderr
        assert client.usable


async def test_an_app_that_returns_without_a_response_is_a_500(serve: Serve) -> None:
    async def app(request: Request) -> None:
        pass

    async with serve(app) as server, server.client() as client:
        response = await client.request(params())
    assert (response.status, response.app_status) == (500, 1)


async def test_a_handlers_int_is_the_application_status(serve: Serve) -> None:
    async def app(request: Request) -> int:
        await hello(request)
        return 7

    async with serve(app) as server, server.client() as client:
        response = await client.request(params())
    assert (response.status, response.app_status) == (200, 7)


async def test_the_application_status_keeps_32_bits(serve: Serve) -> None:
    async def app(request: Request) -> int:
        await hello(request)
        return -1

    async with serve(app) as server, server.client() as client:
        assert (await client.request(params())).app_status == 0xFFFFFFFF


async def test_a_passed_request_timeout_is_a_504(
    memory_serve: Serve, autojump_clock: object
) -> None:
    app = Recorder(sleep)
    async with (
        memory_serve(app, timeouts=Timeouts(request_timeout=5)) as server,
        server.client() as client,
    ):
        start = trio.current_time()
        response = await client.request(params())
        assert response.status == 504
        assert 5 <= trio.current_time() - start <= 6
        assert client.usable
    assert isinstance(app.error, trio.Cancelled)


async def test_a_request_timeout_after_the_head_cuts_the_response(
    memory_serve: Serve, autojump_clock: object
) -> None:
    async with (
        memory_serve(sleep_begun, timeouts=Timeouts(request_timeout=5)) as server,
        server.client() as client,
        client.open(params()) as exchange,
    ):
        await exchange.response()
        with pytest.raises(CUT):
            await read_on(exchange)


async def test_a_body_past_the_limit_is_a_413(serve: Serve) -> None:
    async with serve(read_body, limits=Limits(max_body=1000)) as server:
        async with server.client() as client:
            post = params(method="POST", body_length=1001)
            response = await client.request(post, bytes(1001))
            assert response.status == 413
        async with server.client() as client:
            post = params(method="POST", body_length=1000)
            response = await client.request(post, bytes(1000))
            assert response.body == b"1000"


async def test_a_declared_length_past_the_limit_is_a_413_before_the_body(serve: Serve) -> None:
    app = Recorder(read_body)
    async with serve(app, limits=Limits(max_body=1000)) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST", CONTENT_LENGTH="1001"))
        answer = await front_end.answer()
    assert answer.status == 413
    assert app.calls == 0


async def test_a_body_of_unknown_length_past_the_limit_is_a_413(serve: Serve) -> None:
    async with serve(read_body, limits=Limits(max_body=1000)) as server, server.raw() as front_end:
        await front_end.send(raw.head(REQUEST_METHOD="POST"))
        await front_end.send(raw.stdin(content=bytes(900)), raw.stdin(content=bytes(101)))
        assert (await front_end.answer()).status == 413


async def test_no_body_is_allowed_when_the_limit_is_0(serve: Serve) -> None:
    async with serve(read_body, limits=Limits(max_body=0)) as server, server.client() as client:
        assert (await client.request(params())).body == b"0"
        assert (await client.request(params(method="POST", body_length=1), b"x")).status == 413


async def test_params_past_the_limit_are_a_431(serve: Serve) -> None:
    app = Recorder(hello)
    async with serve(app, limits=Limits(max_params=4000)) as server, server.client() as client:
        response = await client.request(params(headers={"X-Long": "x" * 4000}))
        assert response.status == 431
        assert app.calls == 0
        assert (await client.request(params())).status == 200


async def test_params_in_many_records_past_the_limit_are_a_431(serve: Serve) -> None:
    async with serve(hello, limits=Limits(max_params=4000)) as server, server.raw() as front_end:
        block = raw.pairs(("REQUEST_METHOD", "GET"), ("X", "x" * 5000))
        pieces = [block[start : start + 100] for start in range(0, len(block), 100)]
        await front_end.send(raw.begin(), *(raw.record(raw.PARAMS, 1, piece) for piece in pieces))
        answer = await front_end.answer()
        assert answer.status == 431
        await front_end.send(raw.record(raw.PARAMS, 1), raw.stdin())
        await front_end.send(raw.get())
        assert (await front_end.answer()).status == 200


async def test_too_many_requests_are_a_503_with_retry_after(serve: Serve) -> None:
    app = Recorder(sleep)
    async with (
        serve(app, limits=Limits(max_requests=1)) as server,
        server.client() as client,
        server.client() as other,
    ):
        async with client.open(params()):
            await app.began.wait()
            response = await other.request(params())
        assert response.status == 503
        assert re.fullmatch(r"[0-9]+", response.header("retry-after") or "")
        assert response.app_status == 0
        assert response.protocol_status == ProtocolStatus.REQUEST_COMPLETE


async def test_too_many_requests_on_one_connection_are_a_503_too(serve: Serve) -> None:
    app = Recorder(sleep)
    async with (
        serve(app, limits=Limits(max_requests=1)) as server,
        server.client() as client,
        client.open(params()),
    ):
        await app.began.wait()
        response = await client.request(params())
        assert response.status == 503
        assert response.header("Retry-After") is not None


async def test_a_place_is_free_again_once_its_request_has_ended(serve: Serve) -> None:
    async with serve(hello, limits=Limits(max_requests=1)) as server, server.client() as client:
        for _ in range(3):
            assert (await client.request(params())).status == 200


@pytest.mark.parametrize("role", [Role.AUTHORIZER, Role.FILTER], ids=str)
async def test_too_many_requests_of_another_role_are_overloaded(serve: Serve, role: Role) -> None:
    app = Recorder(sleep)
    async with (
        serve(app, limits=Limits(max_requests=1)) as server,
        server.client() as client,
        server.client() as other,
        client.open(params()),
    ):
        await app.began.wait()
        response = await other.request(params(), role=role)
        assert response.protocol_status == ProtocolStatus.OVERLOADED
        assert (response.status, response.body) == (0, b"")


class ResponderOnly:
    roles = frozenset({Role.RESPONDER})

    async def __call__(self, request: Request) -> None:
        await hello(request)


@pytest.mark.parametrize("role", [Role.AUTHORIZER, Role.FILTER], ids=str)
async def test_a_role_that_the_app_does_not_serve_is_refused(serve: Serve, role: Role) -> None:
    async with serve(ResponderOnly()) as server, server.client() as client:
        response = await client.request(params(), b"body", role=role)
        assert response.protocol_status == ProtocolStatus.UNKNOWN_ROLE
        assert response.body == b""
        assert (await client.request(params())).body == b"hello"


async def test_a_role_that_no_specification_knows_is_refused(serve: Serve) -> None:
    async with serve(hello) as server, server.raw() as front_end:
        await front_end.send(raw.begin(role=7), raw.params(), raw.stdin())
        answer = await front_end.answer()
        assert answer.protocol_status == raw.UNKNOWN_ROLE
        assert answer.stdout == b""
        await front_end.send(raw.get())
        assert (await front_end.answer()).status == 200


@pytest.mark.parametrize(
    "line", [b"X-Evil: a\0b", b"X-Evil: a\rSet-Cookie: b", b"no colon", b"Bad Name: x"]
)
async def test_a_head_that_cannot_be_sent_is_a_500_and_the_cause_is_logged(
    serve: Serve, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(request: Request) -> None:
        await request.stdout.send_all(line + b"\r\n\r\nbody")

    async with serve(app) as server, server.client() as client:
        response = await client.request(params())
    assert response.status == 500
    assert b"Evil" not in response.body
    assert response.header("X-Evil") is None
    assert any("ResponseError" in (line.exc_text or "") for line in caplog.records) or any(
        line.exc_info and line.exc_info[0] and line.exc_info[0].__name__ == "ResponseError"
        for line in caplog.records
    )


async def test_an_abort_is_answered_once_the_clean_up_is_done(serve: Serve) -> None:
    began = trio.Event()
    cleaned_up = False

    async def app(request: Request) -> None:
        nonlocal cleaned_up
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(5, shield=True):
                await trio.lowlevel.checkpoint()
            cleaned_up = True

    async with serve(app) as server, server.raw() as front_end:
        await front_end.send(raw.get())
        await began.wait()
        await front_end.send(raw.abort())
        answer = await front_end.answer()
        assert cleaned_up
        assert answer.stdout == b""
        assert answer.protocol_status == raw.COMPLETE


async def test_params_without_a_method_are_a_400(serve: Serve) -> None:
    app = Recorder(hello)
    async with serve(app) as server, server.client() as client:
        response = await client.request({"SCRIPT_NAME": "/", "SERVER_NAME": "example.test"})
        assert response.status == 400
        assert app.calls == 0
        assert (await client.request(params())).status == 200


async def test_own_responses_to_head_have_no_body(serve: Serve) -> None:
    async with serve(fail) as server, server.client() as client:
        response = await client.request(params(method="HEAD"))
    assert (response.status, response.body) == (500, b"")


async def test_own_responses_end_each_request_exactly_once(serve: Serve) -> None:
    async with serve(fail, limits=Limits(max_body=10)) as server, server.raw() as front_end:
        await front_end.send(raw.get(1), raw.get(2, REQUEST_METHOD="POST", CONTENT_LENGTH="11"))
        await front_end.send(raw.begin(3, role=7), raw.params(3), raw.get(4, keep=False))
        answers = await front_end.answers(1, 2, 3, 4)
        assert {number: answer.protocol_status for number, answer in answers.items()} == {
            1: raw.COMPLETE,
            2: raw.COMPLETE,
            3: raw.UNKNOWN_ROLE,
            4: raw.COMPLETE,
        }
        assert await front_end.rest() == []
