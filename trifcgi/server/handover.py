"""Kept connections that change hands: from a process that stops to one that serves on.

A front end cannot be told that a kept connection is about to close. Whatever it sends at that
moment is lost; nginx tries a GET again, but answers a POST with 502; HAProxy gives up. So where
other processes serve the same listeners, a process that stops closes none: between two requests
it passes the socket on (SCM_RIGHTS), with whatever the front end has sent meanwhile.
"""

import socket
from collections.abc import Callable
from typing import Final

__all__ = ["Handover"]

_PLAIN: Final = b"p"
_MULTIPLEXED: Final = b"m"


class Handover:
    """One process's part in passing connections on.

    Args:
        giving: end of a pair of SOCK_SEQPACKET sockets that every process has.
        taking: its other end, which every process has too.
        wanted: whether there is a process that takes what this one gives.
    """

    def __init__(
        self, giving: socket.socket, taking: socket.socket, wanted: Callable[[], bool]
    ) -> None:
        giving.setblocking(False)
        taking.setblocking(False)
        self.taking = taking
        self.wanted = wanted
        self._giving = giving

    def give(self, sock: socket.socket, multiplexed: bool) -> bool:
        """Pass a connection on; the caller closes its own descriptor.

        Returns:
            whether that was possible: not while very many wait to be taken.
        """
        kind = _MULTIPLEXED if multiplexed else _PLAIN
        try:
            socket.send_fds(self._giving, [kind], [sock.fileno()])
        except OSError:
            return False
        return True

    def take(self) -> tuple[socket.socket, bool] | None:
        """Take a connection that another process has given, and whether its front end
        multiplexes; ``None``: there is none.
        """
        try:
            kind, fds, _, _ = socket.recv_fds(self.taking, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        if not fds:
            return None  # this process has no descriptor left for it
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock, kind == _MULTIPLEXED
