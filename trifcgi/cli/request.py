"""``trifcgi request``: one FastCGI request from the command line, as curl does HTTP's."""

import http
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import attrs
import click
import trio

from trifcgi._version import __version__
from trifcgi.client import Client, Exchange, ResponseHead
from trifcgi.config import Address, TcpAddress, parse_address
from trifcgi.config.kinds import Seconds
from trifcgi.errors import ConfigurationError, ConnectionLost, Error, ResponseError
from trifcgi.protocol import ProtocolStatus, Role

__all__ = ["Question", "prepare", "send"]

_FAILED: Final = 1
_AGENT: Final = f"trifcgi/{__version__}"
_ABORT_TIMEOUT: Final = 0.1
"""Seconds for the server to end a request that was given up: enough to tell it, no more."""
_FORM: Final = b"application/x-www-form-urlencoded"


@attrs.frozen
class Question:
    """A request that is ready to be sent, and how to show what comes back."""

    address: Address
    role: Role
    params: Sequence[tuple[bytes, bytes]]
    body: bytes
    data: bytes
    timeout: float
    include: bool
    verbose: bool


def prepare(
    *,
    address: str,
    path: str,
    method: str | None,
    data: Sequence[str],
    headers: Sequence[str],
    params: Sequence[str],
    include: bool,
    verbose: bool,
    role: str,
    filter_data: str | None,
    timeout: str | None,
) -> Question:
    """Make the params that a front end would send (RFC 3875 §4.1) from what was typed.

    Raises:
        ConfigurationError: an argument does not make sense.
    """
    body = b"&".join(_content(piece) for piece in data) if data else None
    found = _meta_variables(path, method or ("GET" if body is None else "POST"))
    if body is not None:
        found |= {b"CONTENT_LENGTH": b"%d" % len(body), b"CONTENT_TYPE": _FORM}
    beside = b"" if filter_data is None else _content(filter_data)
    if role == "filter":
        # §6.4; the time is the file's in a real front end.
        found |= {
            b"FCGI_DATA_LENGTH": b"%d" % len(beside),
            b"FCGI_DATA_LAST_MOD": b"%d" % time.time(),
        }
    elif filter_data is not None:
        raise ConfigurationError("--filter-data is for --role filter")
    for header in headers:
        _apply_header(found, header)
    for param in params:
        name, equals, value = param.partition("=")
        if not (name and equals):
            raise ConfigurationError(f"-P {param!r} is not KEY=VALUE")
        found[_bytes(name)] = _bytes(value)
    return Question(
        address=parse_address(address),
        role=Role[role.upper()],
        params=list(found.items()),
        body=body or b"",
        data=beside,
        timeout=_seconds(timeout),
        include=include,
        verbose=verbose,
    )


def _meta_variables(target: str, method: str) -> dict[bytes, bytes]:
    # As nginx sends them when its configuration cuts off no script name: the path is
    # decoded in PATH_INFO and raw in REQUEST_URI.
    raw = _bytes(target if target.startswith("/") else f"/{target}")
    path, _, query = raw.partition(b"#")[0].partition(b"?")
    uri = quote(raw.partition(b"#")[0], safe="/?:@!$&'()*+,;=%-._~[]").encode()
    return {
        b"GATEWAY_INTERFACE": b"CGI/1.1",
        b"SERVER_SOFTWARE": _AGENT.encode(),
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"REQUEST_METHOD": _bytes(method),
        b"REQUEST_SCHEME": b"http",
        b"REQUEST_URI": uri,
        b"SCRIPT_NAME": b"",
        b"PATH_INFO": unquote_to_bytes(path),
        b"QUERY_STRING": query,
        b"SERVER_NAME": b"localhost",
        b"SERVER_ADDR": b"127.0.0.1",
        b"SERVER_PORT": b"80",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"REMOTE_PORT": b"0",
        b"HTTP_HOST": b"localhost",
        b"HTTP_USER_AGENT": _AGENT.encode(),
        b"HTTP_ACCEPT": b"*/*",
    }


def _apply_header(params: dict[bytes, bytes], header: str) -> None:
    name, colon, value = header.partition(":")
    name = name.strip()
    if not (name and colon):
        raise ConfigurationError(f"-H {header!r} is not 'NAME: VALUE'")
    key = _bytes(name.upper().replace("-", "_"))
    if key not in (b"CONTENT_TYPE", b"CONTENT_LENGTH"):
        key = b"HTTP_" + key
    if value.strip():
        params[key] = _bytes(value.strip())
    else:
        params.pop(key, None)  # as curl has it: -H 'Accept:' leaves that header out


def _content(text: str) -> bytes:
    if not text.startswith("@"):
        return _bytes(text)
    if text == "@-":
        return sys.stdin.buffer.read()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{text[1:]} cannot be read: {error.strerror}") from error


def _seconds(text: str | None) -> float:
    if text is None:
        return math.inf
    try:
        return Seconds().parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--timeout {text!r} will not do: {error}") from error


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def send(question: Question) -> int:
    """Send a request and print what comes back.

    Returns:
        the exit status: 1 where the application status is not 0, or the request failed.
    """
    try:
        return trio.run(_ask, question)
    except BrokenPipeError:
        _forget_stdout()  # whoever read it has enough
        return _FAILED
    except OSError as error:
        _forget_stdout()
        return _fail(f"the answer cannot be written: {error.strerror or error}")


def _forget_stdout() -> None:
    """Have Python flush what is left of the output to nowhere, as it does at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _ask(question: Question) -> int:
    try:
        with trio.fail_after(question.timeout):
            stream = await _connect(question.address)
            async with Client(stream, abort_timeout=_ABORT_TIMEOUT) as client:
                return await _converse(question, client)
    except trio.TooSlowError:
        return _fail(f"no whole answer from {question.address} in {question.timeout:g} s")
    except Error as error:
        return _fail(f"{question.address}: {error}")


async def _connect(address: Address) -> trio.abc.Stream:
    try:
        if isinstance(address, TcpAddress):
            return await trio.open_tcp_stream(address.host, address.port)
        return await trio.open_unix_socket(address.path)
    except (OSError, ValueError) as error:  # ValueError: a path too long for a socket
        raise ConnectionLost(f"cannot be reached: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    # trio groups what went wrong with each address that a name has; the first will do.
    while isinstance(error.__cause__, (OSError, BaseExceptionGroup)):
        error = error.__cause__
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)


async def _converse(question: Question, client: Client) -> int:
    """One exchange, all of its streams at once."""
    began = trio.current_time()
    failure: Error | OSError | None = None
    if question.verbose:
        for name, value in question.params:
            _note(b"> " + name + b"=" + value)
    async with client.open(question.params, role=question.role, keep_connection=False) as exchange:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_input, question, exchange)
            nursery.start_soon(_show_stderr, exchange)
            try:
                await _show_output(question, exchange)
            except (Error, OSError) as error:
                failure = error  # raised below, where no group wraps it
                nursery.cancel_scope.cancel(reason="the request has failed")
        if failure is not None:
            raise failure
        ending = await exchange.wait_ended()
    if question.verbose:
        took = trio.current_time() - began
        _note(f"* ended after {took:.3f} s: application status {ending.app_status}, "
              f"{ending.protocol_status!s}".encode())  # fmt: skip
    well = ending.protocol_status == ProtocolStatus.REQUEST_COMPLETE
    return 0 if well and ending.app_status == 0 else _FAILED


async def _send_input(question: Question, exchange: Exchange) -> None:
    # Why a stream breaks is the reader's to tell; an early answer breaks none.
    for stream, content in ((exchange.stdin, question.body), (exchange.data, question.data)):
        with suppress(trio.BrokenResourceError, Error):
            if not stream.closed:
                if content:
                    await stream.send_all(content)
                stream.close()


async def _show_output(question: Question, exchange: Exchange) -> None:
    out = sys.stdout.buffer
    malformed: ResponseError | None = None
    try:
        head = await exchange.response()
    except ResponseError as error:
        malformed = error  # what came instead is still worth seeing
    else:
        if question.include:
            out.write(_head_lines(head))
    async for chunk in exchange.stdout:
        out.write(chunk)
        out.flush()
    out.flush()
    if malformed is not None:
        raise malformed


def _head_lines(head: ResponseHead) -> bytes:
    reason = head.reason
    if not reason and head.status in list(http.HTTPStatus):
        reason = http.HTTPStatus(head.status).phrase
    lines = [f"HTTP/1.1 {head.status} {reason}".rstrip()]
    lines += [f"{name}: {value}" for name, value in head.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _show_stderr(exchange: Exchange) -> None:
    pending = b""
    with suppress(Error):
        async for chunk in exchange.stderr:
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                _note(b"stderr: " + line)
    if pending:
        _note(b"stderr: " + pending)


def _note(line: bytes) -> None:
    err = sys.stderr.buffer
    err.write(line + b"\n")
    err.flush()


def _fail(sentence: str) -> int:
    click.echo(f"trifcgi: {sentence}", err=True)
    return _FAILED
