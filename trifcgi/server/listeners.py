"""Where connections come from: TCP and Unix sockets, inherited ones, and accept loops."""

import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trifcgi.errors import ConfigurationError
from trifcgi.protocol import LISTENSOCK_FILENO

if TYPE_CHECKING:
    from trifcgi.server.handover import Handover
    from trifcgi.server.plane import DataPlane

__all__ = [
    "AllowList",
    "Peer",
    "UnixListener",
    "accept_connections",
    "address_of",
    "inherited_listeners",
    "is_listening",
    "open_tcp_listeners",
    "open_unix_listener",
    "systemd_fds",
    "take_connections",
]

_log = logging.getLogger("trifcgi.server")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Descriptors or memory have run out: the connections wait in the backlog meanwhile.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BREATH = 0.1

# Connections taken from one listener in one go.
_ACCEPT_BATCH = 64

_SD_LISTEN_FDS_START = 3


@attrs.frozen
class Peer:
    """Who is at the other end of a socket, for logs and the allow list."""

    host: str | None
    port: int | None

    def __str__(self) -> str:
        if self.host is None:
            return "unix"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, sock: socket.socket, address: Any) -> "Peer":
        """From what ``accept`` gave."""
        if address and sock.family in (socket.AF_INET, socket.AF_INET6):
            return cls(address[0].partition("%")[0], address[1])
        return _ON_UNIX

    @property
    def on_unix(self) -> bool:
        """Whether it has no address, as a peer on a Unix socket."""
        return self.host is None


_ON_UNIX = Peer(None, None)


class AllowList:
    """The TCP peers that may connect. Peers on Unix sockets always may: there the socket's
    mode decides.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        self.networks = tuple(networks)

    @classmethod
    def parse(cls, text: str) -> "AllowList":
        """Parse ``ADDR[,ADDR…]``: addresses or networks in CIDR form.

        The same form as FCGI_WEB_SERVER_ADDRS (§3.2).

        Raises:
            ValueError: with a plain sentence.
        """
        networks: list[Network] = []
        for item in text.split(","):
            try:
                networks.append(ipaddress.ip_network(item.strip()))
            except ValueError:
                raise ValueError(
                    f"{item.strip()!r} is neither an IP address nor a network such as 10.0.0.0/8"
                ) from None
        return cls(networks)

    def __contains__(self, peer: Peer) -> bool:
        if peer.host is None:
            return True
        address = ipaddress.ip_address(peer.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(
            address.version == network.version and address in network for network in self.networks
        )


class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A listener on a Unix socket that removes its file when it is closed.

    Args:
        sock: the listening trio socket.
        path: the socket's file.
        name: the same as whoever asked for it wrote it; ``path`` by default.

    Attributes:
        socket: the listening trio socket.
        path: the socket's file, absolute: the current directory may change before it is removed.
        name: what it is called.
    """

    def __init__(self, sock: trio.socket.SocketType, path: Path, name: Path | None = None) -> None:
        self.socket = sock
        self.path = path.absolute()
        self.name = path if name is None else name
        self._listener = trio.SocketListener(sock)
        self._inode: int | None = path.stat().st_ino

    async def accept(self) -> trio.SocketStream:
        """Wait for a connection; see ``trio.SocketListener.accept``."""
        return await self._listener.accept()

    async def aclose(self) -> None:
        """Stop listening and remove the file, if it is still ours."""
        inode, self._inode = self._inode, None
        try:
            if inode is not None and self.path.stat().st_ino == inode:
                self.path.unlink()
        except (FileNotFoundError, PermissionError):
            # Made by root in a directory of root's, by a process that has since become another
            # user. The next one finds it stale and replaces it.
            pass
        await self._listener.aclose()


SocketListener = trio.SocketListener | UnixListener


async def open_tcp_listeners(
    port: int, *, host: str | None = None, backlog: int | None = None
) -> list[trio.SocketListener]:
    """Listen on a TCP port, on every address that ``host`` has.

    Args:
        port: 0 takes a free one.
        host: a name or address; ``None``: all interfaces, as in trio.
        backlog: connections that may wait; ``None``: as many as the system allows.

    Raises:
        OSError: the address is taken, or not ours.
    """
    return await trio.open_tcp_listeners(port, host=host, backlog=backlog)


async def open_unix_listener(
    path: str | os.PathLike[str],
    *,
    mode: int = 0o660,
    backlog: int | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> UnixListener:
    """Listen on a Unix socket.

    A socket that nobody listens on any more is replaced; one that answers, or a file of
    another kind, never is. The file has ``mode`` from its first moment.

    Args:
        path: the socket's file.
        mode: its permissions.
        backlog: connections that may wait; ``None``: as many as the system allows.
        directory: what a relative path starts from; ``None``: the current directory.

    Raises:
        ConfigurationError: the path is taken, or cannot be used.
    """
    await trio.lowlevel.checkpoint()
    name = file = Path(path)
    # As it was written wherever that will do: the absolute path may be too long.
    if directory is not None and not _is_current(directory):
        file = Path(directory, name)
    if len(os.fsencode(file)) > 107:
        raise ConfigurationError(
            f"the socket path {file} is longer than the 107 bytes that the system allows"
        )
    return _listen_unix(file, name, mode, backlog)


def _is_current(directory: str | os.PathLike[str]) -> bool:
    try:
        return Path(directory).samefile(os.curdir)
    except OSError:
        return False


def _listen_unix(file: Path, name: Path, mode: int, backlog: int | None) -> UnixListener:
    _clear_stale(file, name)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    try:
        # The mode is set while nothing can connect yet: bound, not listening.
        _bind(sock, file, name)
        file.chmod(mode)
        sock.listen(min(backlog or 65535, 65535))
        sock.setblocking(False)
        return UnixListener(trio.socket.from_stdlib_socket(sock), file, name)
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, file: Path, name: Path) -> None:
    try:
        sock.bind(os.fspath(file))
    except FileNotFoundError:
        raise ConfigurationError(
            f"cannot listen on {name}: the directory {file.parent} does not exist"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {name}: {error.strerror}") from error


def _clear_stale(file: Path, name: Path) -> None:
    try:
        kind = file.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise ConfigurationError(
            f"cannot listen on {name}: it exists and is not a socket;"
            " remove it or name another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(file))
        except ConnectionRefusedError:
            pass  # nobody listens: a process that is gone has left it behind
        except FileNotFoundError:
            return
        except BlockingIOError:
            raise _taken(name) from None  # somebody listens, with a full backlog
        except OSError as error:
            raise ConfigurationError(f"cannot listen on {name}: {error.strerror}") from error
        else:
            raise _taken(name)
    file.unlink(missing_ok=True)


def _taken(name: Path) -> ConfigurationError:
    return ConfigurationError(
        f"cannot listen on {name}: another process is serving it; stop that or name another path"
    )


def inherited_listeners(fds: Iterable[int]) -> list[trio.SocketListener]:
    """Make listeners from inherited descriptors that are listening stream sockets.

    They are made non-blocking and close-on-exec.

    Raises:
        ConfigurationError: a descriptor is not a listening stream socket.
    """
    return [_inherited(fd) for fd in fds]


def _inherited(fd: int) -> trio.SocketListener:
    if not is_listening(fd):
        raise ConfigurationError(f"descriptor {fd} is not a listening socket")
    # A copy, so that closing the listener does not free 0, 1 or 2 for the next file.
    sock = socket.socket(fileno=os.dup(fd) if fd <= 2 else fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def is_listening(fd: int = LISTENSOCK_FILENO) -> bool:
    """Whether a descriptor is a listening stream socket, as a front end leaves one at
    FCGI_LISTENSOCK_FILENO for a process that it spawns (§2.2).
    """
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        with socket.socket(fileno=os.dup(fd)) as sock:
            return (
                sock.type == socket.SOCK_STREAM
                and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            )
    except OSError:
        return False


def systemd_fds() -> list[int]:
    """The descriptors that systemd passes (``sd_listen_fds(3)``), and forget the variables,
    so that no child takes them for its own.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(_SD_LISTEN_FDS_START, _SD_LISTEN_FDS_START + int(count)))


def address_of(listener: trio.abc.Listener[Any]) -> str:
    """``HOST:PORT`` or ``unix:/path``, as front ends and the command line write it."""
    if not isinstance(listener, SocketListener):
        return repr(listener)
    if isinstance(listener, UnixListener):
        return f"unix:{listener.name}"
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
        return f"unix:{text}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def accept_connections(
    listener: trio.abc.Listener[Any],
    plane: "DataPlane",
    nursery: trio.Nursery,
    allow: AllowList | None,
) -> None:
    """Accept until cancelled, as many connections as the limits allow."""
    if isinstance(listener, SocketListener) and plane.polls:
        await _accept_sockets(listener, plane, nursery, allow)
        return
    while True:
        await plane.wait_for_room()
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            _log.error("cannot accept: %s; trying again", error.strerror)
            await trio.sleep(_BREATH)
        else:
            nursery.start_soon(plane.serve_stream, stream)


async def _accept_sockets(
    listener: SocketListener,
    plane: "DataPlane",
    nursery: trio.Nursery,
    allow: AllowList | None,
) -> None:
    # The same socket under another descriptor: trio's own wrapper has no accept that fails
    # instead of waiting, and a batch of connections would cost a wait each.
    share = plane.share
    with socket.socket(fileno=os.dup(listener.socket.fileno())) as sock:
        while True:
            await plane.wait_for_room()
            await trio.lowlevel.wait_readable(sock)
            if share is not None and not await share.turn(sock):
                continue
            for _ in range(min(_ACCEPT_BATCH, plane.room)):
                try:
                    accepted, address = sock.accept()
                except (BlockingIOError, InterruptedError):
                    break
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        _log.error("cannot accept: %s; trying again", error.strerror)
                        await trio.sleep(_BREATH)
                    # Anything else is about the one connection: gone before it was taken.
                    break
                _start(accepted, address, plane, nursery, allow)
                if share is not None and share.above():
                    break


async def take_connections(
    handover: "Handover", plane: "DataPlane", nursery: trio.Nursery
) -> None:
    """Take over connections of processes that stop, until cancelled."""
    while True:
        await plane.wait_for_room()
        await trio.lowlevel.wait_readable(handover.taking)
        if plane.share is not None and not await plane.share.turn(handover.taking):
            continue
        if plane.room <= 0:  # another has taken it meanwhile
            continue
        taken = handover.take()
        if taken is None:
            # Another process was faster, or there is no descriptor left for it.
            await trio.lowlevel.checkpoint()
            continue
        sock, multiplexed = taken
        try:
            address = sock.getpeername()
        except OSError:
            sock.close()  # gone meanwhile
            continue
        if plane.share is not None:
            plane.share.taken()
        peer = Peer.of(sock, address)
        nursery.start_soon(
            plane.serve_socket, sock, peer, multiplexed, name=f"trifcgi connection {peer}"
        )


def _start(
    sock: socket.socket,
    address: Any,
    plane: "DataPlane",
    nursery: trio.Nursery,
    allow: AllowList | None,
) -> None:
    peer = Peer.of(sock, address)
    if allow is not None and peer not in allow:
        _log.warning("%s: refused, it is not among the allowed addresses", peer)
        sock.close()
        return
    sock.setblocking(False)
    if plane.share is not None:
        plane.share.taken()
    if not peer.on_unix:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nursery.start_soon(plane.serve_socket, sock, peer, name=f"trifcgi connection {peer}")
