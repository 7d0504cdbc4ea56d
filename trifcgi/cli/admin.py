"""``trifcgi admin``: ask a running server's control server, and print what it says."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import attrs
import click
import trio

from trifcgi.admin.arguments import read_all
from trifcgi.admin.commands import COMMANDS, Command
from trifcgi.admin.guard import read_token
from trifcgi.admin.source import CommandFailed
from trifcgi.client import Client, Response
from trifcgi.config import Address, Configuration, TcpAddress, UnixAddress, nearest
from trifcgi.control import DEFAULT_CONTROL_HOST
from trifcgi.errors import ConfigurationError, ConnectionLost, Error

__all__ = ["Order", "command_lines", "prepare", "send"]

_FAILED: Final = 1
_PATIENCE: Final = 60.0
"""Seconds: what takes a server longer does not come any more."""


@attrs.frozen
class Order:
    """A command that is ready to be sent.

    Attributes:
        command: what is asked for.
        target: its path and query.
        address: where the control server is.
        token: what it asks for.
        as_json: print the answer's JSON instead of a text.
    """

    command: Command
    target: str
    address: Address
    token: str | None
    as_json: bool


def command_lines() -> list[tuple[str, str]]:
    """Each command with its arguments, and what it does."""
    return [(" ".join([command.name, *command.usage]), command.help) for command in COMMANDS]


def prepare(words: Sequence[str], configuration: Configuration, *, as_json: bool) -> Order:
    """Make sense of a command line.

    Args:
        words: the command and its arguments; those without a place of their own as
            ``NAME=VALUE``.
        configuration: says where the control server is.
        as_json: print JSON.

    Raises:
        ConfigurationError: it makes none.
    """
    command = _find(words[0])
    given = _arguments(command, words[1:])
    try:
        read_all(command.arguments, given)
    except CommandFailed as error:
        raise ConfigurationError(f"admin {command.name}: {_sentence(str(error))}") from error
    path, rest = command.fill(given)
    query = urlencode({**rest, "format": "json" if as_json else "text"})
    token = configuration.admin_token_file
    return Order(
        command=command,
        target=f"{path}?{query}",
        address=_address(configuration),
        token=None if token is None else read_token(token),
        as_json=as_json,
    )


def _find(name: str) -> Command:
    known = {command.name: command for command in COMMANDS}
    if name not in known:
        raise ConfigurationError(
            f"there is no command {name!r}{nearest(name, known)} (see trifcgi admin --help)"
        )
    return known[name]


def _arguments(command: Command, words: Sequence[str]) -> dict[str, str]:
    names = {argument.name for argument in command.arguments}
    places = iter([argument.name for argument in command.arguments if argument.positional])
    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name in names):
            free = next(places, None)
            if free is None:
                usage = " ".join([command.name, *command.usage])
                raise ConfigurationError(
                    f"admin {command.name}: {word!r} is one argument too many: it is {usage}"
                )
            name, value = free, word
        given[name] = value
    return given


def _address(configuration: Configuration) -> Address:
    if configuration.admin_unix is not None:
        return UnixAddress(configuration.admin_unix)
    if configuration.admin_port is not None:
        host = configuration.admin_host or DEFAULT_CONTROL_HOST
        return TcpAddress(host, configuration.admin_port)
    raise ConfigurationError(
        "say where the control server is, as the server was told: --admin-unix PATH or"
        " --admin-port N (or TRIFCGI_ADMIN_UNIX, TRIFCGI_ADMIN_PORT)"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}".rstrip(".")


def send(order: Order) -> int:
    """Ask, and print the answer.

    Returns:
        the exit status: 1 where the server refuses, fails or does not answer.
    """
    try:
        return trio.run(_ask, order)
    except BrokenPipeError:
        # Whoever read our output has enough. Python would flush stdout once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


async def _ask(order: Order) -> int:
    try:
        with trio.fail_after(_PATIENCE):
            stream = await _connect(order.address)
            async with Client(stream, abort_timeout=0.1) as client:
                response = await client.request(_params(order))
    except trio.TooSlowError:
        return _fail(f"the control server at {order.address} does not answer")
    except Error as error:
        return _fail(f"the control server at {order.address}: {error}")
    return _show(order, response)


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


def _params(order: Order) -> dict[str, str]:
    path, _, query = order.target.partition("?")
    params = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": order.command.method,
        "REQUEST_URI": order.target,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": socket.gethostname(),
        "HTTP_HOST": "localhost",
    }
    if order.token is not None:
        params["HTTP_AUTHORIZATION"] = f"Bearer {order.token}"
    return params


def _show(order: Order, response: Response) -> int:
    text = response.body.decode("utf-8", "replace")
    if response.status >= 400 and (why := _refusal(text)) is not None:
        return _fail(why)
    if order.as_json:
        text = json.dumps(json.loads(text), indent=2)
    click.echo(text.rstrip("\n"))
    return 0 if response.status < 400 else _FAILED


def _refusal(text: str) -> str | None:
    """The sentence of an answer that says why it is none."""
    try:
        data: Any = json.loads(text)  # Any: whatever a server says
    except ValueError:
        return None
    why = data.get("error") if isinstance(data, dict) else None
    return _sentence(why) if isinstance(why, str) else None


def _fail(sentence: str) -> int:
    click.echo(f"trifcgi: {sentence}", err=True)
    return _FAILED
