"""The control server of a running program: from a configuration to its listeners, and back."""

import contextlib
import ipaddress
import logging
import socket
from typing import Final

import attrs
import trio

from trifcgi.admin import About, Setting, Source, serve_control
from trifcgi.admin.guard import read_token
from trifcgi.config import OPTIONS, Configuration
from trifcgi.errors import ConfigurationError
from trifcgi.server import UnixListener, address_of, open_tcp_listeners, open_unix_listener

__all__ = [
    "CONTROL_MODE",
    "DEFAULT_CONTROL_HOST",
    "ControlListeners",
    "about",
    "about_workers",
    "open_control",
]

_log: Final = logging.getLogger("trifcgi")

DEFAULT_CONTROL_HOST: Final = "127.0.0.1"

CONTROL_MODE: Final = 0o600
"""Mode of the control server's Unix socket: its owner, and root."""


_KINDS: Final = {
    "auto": "app",
    "asgi": "ASGI app",
    "wsgi": "WSGI app",
    "handler": "native handler",
}


@attrs.frozen
class ControlListeners:
    """What the control server listens on, and the token that it asks for."""

    listeners: list[trio.SocketListener | UnixListener]
    token: str | None

    async def serve(
        self, source: Source, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled, whatever fails on the way; see :func:`serve_control`."""
        for listener in self.listeners:
            _log.info("control server at %s%s", address_of(listener),
                      "" if self.token is None else ", with a token")  # fmt: skip
        await serve_control(source, self.listeners, token=self.token, task_status=task_status)

    async def close(self) -> None:
        """Close the listeners, without waiting."""
        for listener in self.listeners:
            await trio.aclose_forcefully(listener)


def about(configuration: Configuration, app: str, kind: str) -> About:
    """What the control server says about a program.

    Args:
        configuration: its options.
        app: what it serves, by name.
        kind: what that is, in words.
    """
    return About(
        app=app,
        kind=kind,
        settings=[
            Setting(
                name=name,
                value=_shown(configuration, name),
                origin=str(configuration.origin(name)),
            )
            for name in OPTIONS
        ],
    )


def about_workers(configuration: Configuration) -> About:
    """The same for a supervisor, which does not load the app."""
    if configuration.app is None:
        return about(configuration, f"scripts below {configuration.root}", "script host")
    return about(configuration, configuration.app, _KINDS[configuration.interface])


def _shown(configuration: Configuration, name: str) -> str:
    option = OPTIONS[name]
    value = getattr(configuration, option.attribute)
    if name not in configuration.origins:
        return option.shown_default
    return option.kind.show(value)


async def open_control(configuration: Configuration) -> ControlListeners | None:
    """Open the control server's listeners; ``None`` where no option asks for one.

    Raises:
        ConfigurationError: an address or the token file is no good, or others could reach a
            server that asks for no token.
    """
    port, unix = configuration.admin_port, configuration.admin_unix
    if port is None and unix is None:
        return None
    path = configuration.admin_token_file
    token = None if path is None else read_token(configuration.absolute(path), name=path)
    control = ControlListeners([], token)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(control.close)
        if unix is not None:
            control.listeners.append(
                await open_unix_listener(
                    unix, mode=CONTROL_MODE, directory=configuration.directory
                )
            )
        if port is not None:
            control.listeners.extend(await _open_tcp(configuration, port))
        for listener in control.listeners:
            _require_token(listener, control.token)
        stack.pop_all()
    return control


async def _open_tcp(configuration: Configuration, port: int) -> list[trio.SocketListener]:
    host = configuration.admin_host or DEFAULT_CONTROL_HOST
    try:
        return await open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ConfigurationError(
            f"the control server cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error


def _require_token(listener: trio.SocketListener | UnixListener, token: str | None) -> None:
    if token is not None or listener.socket.family == socket.AF_UNIX:
        return
    address = listener.socket.getsockname()[0]
    if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise ConfigurationError(
            f"the control server would be open to others on {address}:"
            " name a token with --admin-token-file, or leave out --admin-host"
        )
