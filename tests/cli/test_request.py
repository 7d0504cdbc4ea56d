"""``trifcgi request`` against a server."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.cli.running import TRIFCGI, run_trifcgi, running

pytestmark = pytest.mark.real


@asynccontextmanager
async def hello(apps: Path) -> AsyncIterator[str]:
    """The address of a server."""
    async with running("hello", "--unix", "a.sock", directory=apps) as server:
        await server.wait_address()
        yield f"unix:{apps}/a.sock"
        assert await server.stop() == 0


async def test_the_body_goes_to_stdout_and_stderr_to_stderr(apps: Path) -> None:
    async with hello(apps) as address:
        result = await run_trifcgi("request", address, "/a%20b")
    assert (result.status, result.stdout) == (0, b"hello /a b\n")
    assert result.stderr == "stderr: a note\n"


async def test_the_head_is_printed_as_curl_does(apps: Path) -> None:
    async with hello(apps) as address:
        result = await run_trifcgi("request", address, "-i")
    assert result.stdout == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello /\n"


async def test_a_body_is_sent_from_stdin(apps: Path) -> None:
    body = bytes(range(256)) * 1000
    async with hello(apps) as address:
        result = await run_trifcgi("request", address, "/up", "-d", "@-", stdin=body)
    assert result.stdout == b"hello /up: " + body + b"\n"


async def test_the_application_status_decides_the_exit_status(apps: Path) -> None:
    async with hello(apps) as address:
        result = await run_trifcgi("request", address, "-P", "STATUS=3", "-v")
    assert (result.status, result.stdout) == (1, b"hello /\n")
    assert "\n> STATUS=3\n" in result.stderr
    assert "application status 3, REQUEST_COMPLETE\n" in result.stderr


async def test_a_role_that_is_refused(apps: Path) -> None:
    (apps / "only.py").write_text(
        "def application(environ, start_response):\n    raise AssertionError\n"
    )
    async with running("only", "--unix", "a.sock", directory=apps) as server:
        await server.wait_address()
        result = await run_trifcgi(
            "request", f"unix:{apps}/a.sock", "--role", "authorizer", directory=apps
        )
        assert await server.stop() == 0
    assert result.status == 1
    assert result.stderr == (
        f"trifcgi: unix:{apps}/a.sock: the application server refused the request: UNKNOWN_ROLE\n"
    )


async def test_nobody_at_the_address(apps: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    result = await run_trifcgi("request", address)
    assert (result.status, result.stdout) == (1, b"")
    assert result.stderr == f"trifcgi: {address}: cannot be reached: Connection refused\n"
    result = await run_trifcgi("request", f"unix:{apps}/none")
    assert result.status == 1
    assert result.stderr.endswith("cannot be reached: No such file or directory\n")


async def answered(answer: bytes | None, *arguments: str) -> tuple[int, bytes, str]:
    """What it makes of a peer that sends these bytes, or none and waits."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]

        async def peer(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            if answer is None:
                await trio.sleep_forever()
            else:
                await stream.send_all(answer)
            await stream.aclose()

        nursery.start_soon(trio.serve_listeners, peer, listeners)
        result = await run_trifcgi("request", f"127.0.0.1:{port}", *arguments)
        nursery.cancel_scope.cancel()
    return result.status, result.stdout, result.stderr.partition(f"127.0.0.1:{port}")[2]


async def test_a_peer_that_speaks_http() -> None:
    status, body, sentence = await answered(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (status, body) == (1, b"")
    assert sentence.startswith(": ")
    assert sentence.count("\n") == 1


async def test_a_peer_that_closes() -> None:
    status, body, sentence = await answered(b"")
    assert (status, body) == (1, b"")
    assert sentence.count("\n") == 1


async def test_output_without_a_head_is_shown_and_is_a_failure() -> None:
    records = b"\1\6\0\1\0\4\0\0oops" + b"\1\6\0\1\0\0\0\0" + b"\1\3\0\1\0\10\0\0" + bytes(8)
    status, body, sentence = await answered(records)
    assert (status, body) == (1, b"oops")
    assert sentence.count("\n") == 1


async def test_a_peer_that_says_nothing_is_given_up_on() -> None:
    status, body, sentence = await answered(None, "--timeout", "100ms")
    assert (status, body, sentence) == (1, b"", " in 0.1 s\n")


async def test_a_reader_that_has_enough_is_no_traceback(apps: Path) -> None:
    async with hello(apps) as address:
        result = await trio.run_process(
            ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", TRIFCGI, "request", address],
            check=False, capture_stderr=True,
        )  # fmt: skip
    assert b"Traceback" not in result.stderr
    assert b"Exception ignored" not in result.stderr


async def test_output_that_cannot_be_written_is_one_sentence(apps: Path) -> None:
    async with hello(apps) as address:
        result = await trio.run_process(
            ["bash", "-c", '"$@" >/dev/full', "bash", TRIFCGI, "request", address],
            check=False, capture_stderr=True,
        )  # fmt: skip
    assert result.returncode == 1
    said = result.stderr.decode().splitlines()
    assert said[-1] == "trifcgi: the answer cannot be written: No space left on device"
    assert not any("Traceback" in line or "Exception ignored" in line for line in said)
