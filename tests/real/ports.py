"""Ports for servers that cannot be told to take a free one and say which."""

import itertools
import os
import socket

__all__ = ["PortBlock"]

# Below Linux's ephemeral range (32768 on), so that no outgoing connection takes one.
_FIRST, _LAST, _SIZE = 20_000, 32_000, 200


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
    except OSError:
        bound.close()
        raise
    return bound


class PortBlock:
    """A run of loopback ports that this test run has to itself.

    Its first port stays bound for as long as the block is used, which keeps every other
    run of these tests out of it; other programs' ports in it are passed over.
    """

    def __init__(self) -> None:
        starts = range(_FIRST, _LAST, _SIZE)
        offset = os.getpid() % len(starts)
        for start in itertools.islice(itertools.cycle(starts), offset, offset + len(starts)):
            try:
                self._guard = _bind(start)
                self._guard.listen(1)
            except OSError:
                continue
            self._ports = iter(range(start + 1, start + _SIZE))
            return
        raise OSError(f"every block of ports from {_FIRST} to {_LAST} is taken")

    def take(self) -> int:
        """A port on which nothing listens, and which is given out only once."""
        for port in self._ports:
            try:
                _bind(port).close()
            except OSError:
                continue
            return port
        raise OSError("the block of ports is used up")

    def close(self) -> None:
        """Let the block go."""
        self._guard.close()
