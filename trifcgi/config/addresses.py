"""Addresses as users write them: ``HOST:PORT`` and ``unix:/path``."""

from typing import Final, TypeAlias

import attrs

from trifcgi.errors import ConfigurationError

__all__ = ["Address", "InheritedSocket", "TcpAddress", "UnixAddress", "parse_address"]

_LAST_PORT: Final = 65535


@attrs.frozen
class TcpAddress:
    """A TCP address; the port is 0 where any free one will do."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen
class UnixAddress:
    """A Unix stream socket in the file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@attrs.frozen
class InheritedSocket:
    """A listening socket that this process was started with."""

    fd: int

    def __str__(self) -> str:
        return f"file descriptor {self.fd}"


Address: TypeAlias = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read an address that one can connect to.

    Args:
        text: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

    Raises:
        ConfigurationError: it is none of them.
    """
    if text.startswith("unix:") and len(text) > len("unix:") and "\0" not in text:
        return UnixAddress(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    digits = port.isascii() and port.isdigit() and len(port) <= len(str(_LAST_PORT))
    if not (colon and host and digits and 0 < int(port) <= _LAST_PORT):
        raise ConfigurationError(
            f"{text!r} is not an address: write HOST:PORT, [IPV6]:PORT or unix:/path"
        )
    return TcpAddress(host, int(port))
